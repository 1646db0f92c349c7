# SPDX-License-Identifier: Apache-2.0
"""Connects between real pods that nobody answers: whose they are, and whom they asked."""

from __future__ import annotations

from typing import Any

from tests.pods.test_resets import COUNT, SLEEP
from tests.pods.test_signals import container_json, pod_json
from tests.support.containerd import PodHandle
from tests.support.incidents import PORT, connecting
from tests.support.ktrace import Ktrace
from tests.support.talkers import Talker, rule, server, setting
from tests.support.wait import wait_for

Event = dict[str, Any]


def test_nobody_answers(web: PodHandle, other: PodHandle, cri: tuple[str, str]) -> None:
    """Each attempt while it lasts, and its end, with both pods."""
    app, back = web.run("app", SLEEP), other.run("agent", SLEEP)
    rule(back, "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    setting(app, "net.ipv4.tcp_syn_retries", "2")
    with Ktrace("connects", "-p", "shop/web-0", *cri) as ktrace:
        with Talker(app, "knock", other.ip, PORT, COUNT) as client:
            assert client.said() == "done"
            wait_for("the time-outs", lambda: not connecting(app))
        events = ktrace.stop()
        assert ktrace.summary.lost == 0
    assert (
        sorted(event["error"] for event in events) == ["timeout"] * COUNT + ["unanswered"] * COUNT
    )
    for event in events:
        assert event["pod"] == pod_json(web)
        assert event["container"] in (container_json(app), None)
        assert event["syns"] >= 3
        assert event["local"]["address"] == web.ip
        assert event["local"]["pod"] == pod_json(web)
        assert event["remote"] == {"address": other.ip, "port": PORT, "pod": pod_json(other)}


def test_healthy_connects(web: PodHandle, other: PodHandle, cri: tuple[str, str]) -> None:
    """Nothing in the stream, and no verdict."""
    app, back = web.run("app", SLEEP), other.run("agent", SLEEP)
    with (
        server(back, "deaf", PORT, 4096),
        Ktrace("connects", *cri) as ktrace,
        Ktrace("why", web.uid, *cri) as why,
    ):
        with Talker(app, "ask", other.ip, PORT, COUNT) as client:
            assert client.said() == [0] * COUNT
        assert why.stop() == []
        assert [event for event in ktrace.stop() if event["local"]["address"] == web.ip] == []
