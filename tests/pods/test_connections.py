# SPDX-License-Identifier: Apache-2.0
"""What `ktrace why` says of resets between two real pods, with tcpdump as the witness of how many
there were on the wire."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import ktrace
from tests.support.containerd import Containerd, ContainerHandle
from tests.support.incidents import WATCHED
from tests.support.ktrace import Ktrace
from tests.support.talkers import Talker, Witness, counted, rule, server, setting
from tests.support.wait import wait_for
from tracer.why.causes.no_such_connection import BEGINNING_NS

COUNT = 23
PORT = 8080
SERVICE, SERVICE_PORT = "198.51.100.10", 80
SLEEP = ["sleep", "1000"]

Verdicts = dict[str, list[dict[str, Any]]]


@dataclass
class Pods:
    """`front` asks, `back` serves. `traced` runs something while everything is recorded, and tells
    the verdicts of each by its name, and the events."""

    front: ContainerHandle
    back: ContainerHandle
    cri: tuple[str, str]
    file: Path

    def traced(self, happens: Callable[[], int]) -> tuple[Verdicts, list[dict[str, Any]]]:
        """What happens returns how many resets its witness saw: as many must have been sent."""
        with Ktrace("record", *self.cri, output=str(self.file)) as recording:
            seen = happens()
            recording.signal(signal.SIGINT)
            assert recording.exit_code() == 0, recording.stderr
        uids = {self.front.pod.uid: "front", self.back.pod.uid: "back"}
        events = _lines("replay", str(self.file), "-o", "json")
        mine = [e for e in events if e["pod"] and e["pod"]["uid"] in uids]
        resets = [e for e in mine if e["kind"] == "tcp_reset"]
        assert sum(e["direction"] == "sent" for e in resets) == seen
        verdicts: Verdicts = {"front": [], "back": []}
        for verdict in _lines("why", str(self.file), "-o", "json"):
            if verdict["pod"]["uid"] in uids:
                told = [verdict, *verdict["others"]]
                verdicts[uids[verdict["pod"]["uid"]]] += told
        return verdicts, resets


def _lines(*words: str) -> list[dict[str, Any]]:
    done = ktrace.run(*words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def pods(containerd: Containerd, cri: tuple[str, str], tmp_path: Path) -> Iterator[Pods]:
    made = [containerd.run_pod(name, namespace="shop") for name in ("front", "back")]
    front, back = (pod.run("app", SLEEP) for pod in made)
    yield Pods(front, back, cri, tmp_path / "resets.ktrace")
    for pod in made:
        pod.remove()


def summary(verdicts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(verdict["verdict"], verdict["certainty"]) for verdict in verdicts]


def through_service(pods: Pods) -> tuple[str, int]:
    """Of a service's own address, which is translated in the client's network, as kube-proxy does
    it on the node."""
    to = f"{pods.back.pod.ip}:{PORT}"
    asked = ("-d", SERVICE, "-p", "tcp", "--dport", str(SERVICE_PORT))
    rule(pods.front, "-t", "nat", "-A", "OUTPUT", *asked, "-j", "DNAT", "--to-destination", to)
    return SERVICE, SERVICE_PORT


@pytest.mark.parametrize("translated", [False, True], ids=["direct", "service"])
def test_a_pool_that_keeps_connections_longer_than_the_server(pods: Pods, translated: bool) -> None:
    asked = through_service(pods) if translated else (pods.back.pod.ip, PORT)

    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "keep_alive", PORT, COUNT, 1.0),
                Talker(pods.front, "reuse", *asked, COUNT, 0.5) as front,
            ):
                assert front.said() == "done"
            return witness.count()

    verdicts, resets = pods.traced(happens)
    assert len(resets) == 2 * COUNT
    assert summary(verdicts["front"]) == [("used_after_close", "certain")]
    assert summary(verdicts["back"]) == [("closed_before_use", "certain")]
    said = verdicts["front"][0]["sentence"]
    assert f"shop/back ({asked[0]}:{asked[1]}) had closed {COUNT} idle connections" in said
    assert "front used each once more" in said
    assert f"{COUNT} connections" in verdicts["back"][0]["sentence"]
    assert "shop/front" in verdicts["back"][0]["sentence"]
    received = [e for e in resets if e["direction"] == "received"]
    for event in received:
        idle = event["idle"]
        assert idle["sent_ns"] < idle["heard_ns"] < idle["received_ns"]
        assert idle["heard_ns"] >= 400_000_000
        assert idle["received_ns"] - idle["heard_ns"] >= 900_000_000
        assert event["bytes"]["received"] == 1000
    for event in resets:
        if event["direction"] == "sent":
            assert event["idle"]["ended_ns"] >= 400_000_000


def test_while_it_happens_the_other_end_is_seen_though_nobody_asked_for_it(pods: Pods) -> None:
    """`why` of one pod tells of that pod alone, and of whom it talked to by name."""
    asked = through_service(pods)
    words = ("why", pods.front.pod.uid, *pods.cri, "--duration", WATCHED)
    with (
        Ktrace(*words) as watching,
        server(pods.back, "keep_alive", PORT, COUNT, 0.5),
        Talker(pods.front, "reuse", *asked, COUNT, 0.5) as front,
    ):
        assert front.said() == "done"
        (verdict,) = watching.wait()
    assert summary([verdict]) == [("used_after_close", "certain")]
    assert f"shop/back ({SERVICE}:{SERVICE_PORT}) had closed {COUNT} idle" in verdict["sentence"]
    assert verdict["others"] == []


def test_an_answer_that_takes_longer_than_the_client_waits(pods: Pods) -> None:
    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "slow", PORT, COUNT, 0.5),
                Talker(pods.front, "give_up", pods.back.pod.ip, PORT, COUNT, 1.0) as front,
            ):
                assert front.said() == "done"
                wait_for("the resets", lambda: counted(pods.front, "OutRsts") >= COUNT)
            return witness.count()

    verdicts, _ = pods.traced(happens)
    assert summary(verdicts["back"]) == [("answered_late", "certain")]
    assert verdicts["front"] == []
    said = verdicts["back"][0]["sentence"]
    assert f"shop/front had closed {COUNT} connections" in said
    assert "it had waited" in said


def test_a_port_that_nobody_listens_on(pods: Pods) -> None:
    verdicts, resets = pods.traced(lambda: _asked(pods))
    assert len(resets) == 2 * COUNT
    assert summary(verdicts["front"]) == [("refused_by_peer", "certain")]
    assert summary(verdicts["back"]) == [("closed_port", "certain")]
    assert verdicts["front"][0]["sentence"] == (
        f"{COUNT} attempts of its own to connect refused by shop/back ({pods.back.pod.ip}:{PORT});"
        " that side's TCP sent the resets, as nothing listens there"
    )


def _asked(pods: Pods, witnessed: bool = True) -> int:
    with Witness(pods.back) as witness:
        with Talker(pods.front, "ask", pods.back.pod.ip, PORT, COUNT) as front:
            assert front.said() == [111] * COUNT
        count = witness.count()
    assert count == COUNT
    return count if witnessed else 0


def test_a_rule_that_rejects_in_the_pods_name(pods: Pods) -> None:
    """Twin: the same on the wire, and a server listens there."""
    port = ("--dport", str(PORT))
    rule(pods.back, "-A", "INPUT", "-p", "tcp", *port, "-j", "REJECT", "--reject-with", "tcp-reset")
    with server(pods.back, "deaf", PORT, 4096):
        verdicts, resets = pods.traced(lambda: _asked(pods, witnessed=False))
    assert [e["direction"] for e in resets] == ["received"] * COUNT
    assert summary(verdicts["front"]) == [("not_by_peer", "likely")]
    assert summary(verdicts["back"]) == [("policy_drop", "certain")]
    said = verdicts["front"][0]["sentence"]
    assert said.startswith(f"{COUNT} attempts to connect refused in the name of shop/back (")


def test_a_reply_whose_address_is_not_translated_back(pods: Pods) -> None:
    """Replies pass the client's conntrack untracked."""
    asked = through_service(pods)
    back = ("-s", pods.back.pod.ip, "-p", "tcp", "--sport", str(PORT))
    rule(pods.front, "-t", "raw", "-A", "PREROUTING", *back, "-j", "CT", "--notrack")

    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "deaf", PORT, 4096),
                Talker(pods.front, "knock", *asked, COUNT) as front,
            ):
                assert front.said() == "done"
                wait_for("the resets", lambda: counted(pods.front, "OutRsts") >= COUNT)
            return witness.count()

    verdicts, _ = pods.traced(happens)
    assert summary(verdicts["front"]) == [("reply_not_translated", "likely")]
    assert f"shop/back ({pods.back.pod.ip}:{PORT})" in verdicts["front"][0]["sentence"]


def test_what_healthy_programs_do_has_no_verdict(pods: Pods) -> None:
    """Checks that connect and reset, and clients that leave in the middle of a download. All of it
    is in the stream."""

    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "accepting", PORT, COUNT),
                Talker(pods.front, "check", pods.back.pod.ip, PORT, COUNT) as front,
            ):
                assert front.said() == "done"
            with (
                server(pods.back, "generous", PORT + 1, COUNT) as back,
                Talker(pods.front, "download", pods.back.pod.ip, PORT + 1, COUNT) as front,
            ):
                assert front.said() == "done"
                assert back.said() == "done"
            return witness.count()

    verdicts, resets = pods.traced(happens)
    assert verdicts == {"front": [], "back": []}, verdicts
    first = [e for e in resets if e["reason"] in ("so_linger_zero", "tcp_abort_on_close")]
    assert len(first) == 2 * COUNT


def test_a_client_that_disconnects(pods: Pods) -> None:
    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "accepting", PORT, COUNT),
                Talker(pods.front, "disconnect", pods.back.pod.ip, PORT, COUNT) as front,
            ):
                assert front.said() == "done"
            return witness.count()

    verdicts, resets = pods.traced(happens)
    known = any(e["reason"] == "tcp_state" for e in resets)
    assert summary(verdicts["front"]) == (
        [("disconnected", "certain")] if known else [("reset_sent", "unknown")]
    )
    assert summary(verdicts["back"]) == [("reset_by_peer", "certain")]
    for told in verdicts.values():
        assert f"{COUNT} connections" in told[0]["sentence"]


def test_a_client_that_comes_back_to_its_old_connections(pods: Pods) -> None:
    """The server still has them, and answers for them; the client refuses that answer and asks
    again (RFC 9293, 3.5.1)."""
    first = 45_000

    def happens() -> int:
        with (
            Witness(pods.front) as witness,
            server(pods.back, "holding", PORT, pods.front.pod.ip, first, COUNT),
            Talker(pods.front, "come_back", pods.back.pod.ip, PORT, first, COUNT) as front,
        ):
            assert front.said() == "done"
            return witness.count()

    verdicts, resets = pods.traced(happens)
    sent = [e for e in resets if e["direction"] == "sent"]
    known = sent[0]["reason"] is not None
    assert len(sent) == COUNT
    assert {e["reason"] for e in sent} == {"tcp_invalid_ack_sequence" if known else None}
    (told,) = verdicts["front"]
    assert (told["verdict"], told["certainty"]) == (
        "reset_sent",
        "certain" if known else "unknown",
    )
    assert f"reset {COUNT} connections" in told["sentence"]
    if known:
        assert told["sentence"].endswith(": wrong acknowledgement")
        assert "an older connection" in told["remedy"]


def test_a_full_accept_queue_that_answers_with_resets(pods: Pods) -> None:
    """Their last packets come when the queue has no room for so many any more."""
    setting(pods.back, "net.ipv4.tcp_abort_on_overflow", "1")
    backlog, waiting = 40, 35
    asking = backlog + 1 - waiting + COUNT
    acks = ("OUTPUT", "-p", "tcp", "--dport", str(PORT), "--tcp-flags", "SYN,ACK", "ACK")

    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "deaf", PORT, backlog),
                Talker(pods.front, "knock", pods.back.pod.ip, PORT, waiting) as first,
            ):
                assert first.said() == "done"
                rule(pods.front, "-A", *acks, "-j", "DROP")
                with Talker(pods.front, "knock", pods.back.pod.ip, PORT, asking) as second:
                    assert second.said() == "done"
                    rule(pods.front, "-D", *acks, "-j", "DROP")
                    wait_for("the resets", lambda: counted(pods.back, "OutRsts") >= COUNT)
            return witness.count()

    verdicts, resets = pods.traced(happens)
    assert [e["reason"] for e in resets].count("invalid_syn") == COUNT
    queue = next(v for v in verdicts["back"] if v["verdict"] == "accept_queue_full")
    assert queue["certainty"] == "certain"
    assert f"{COUNT} attempts to connect turned away at port {PORT}" in queue["sentence"]
    assert f"{COUNT} of them with a reset" in queue["sentence"]


def test_connections_that_are_not_known(pods: Pods) -> None:
    """Not known why: the pod is older than the recording, and its container has not ended."""

    def happens() -> int:
        with Witness(pods.back) as witness:
            with server(pods.back, "deaf", PORT, 4096):
                _done(pods.front, "stale", pods.back.pod.ip, PORT, COUNT)
            return witness.count()

    verdicts, resets = pods.traced(happens)
    assert len(resets) == 2 * COUNT
    assert summary(verdicts["back"]) == [("no_such_connection", "certain")]
    assert f"{COUNT} connections" in verdicts["back"][0]["sentence"]
    assert summary(verdicts["front"]) == [("used_after_close", "certain")]
    assert f"did not know {COUNT} connections" in verdicts["front"][0]["sentence"]


def test_connections_of_an_earlier_life(pods: Pods) -> None:
    """The container ends and is started again: its pod keeps its address."""

    def happens() -> int:
        os.kill(pods.back.pid, signal.SIGKILL)
        pods.back.wait_exit()
        pods.back = pods.back.pod.run("app", SLEEP)
        with Witness(pods.back) as witness:
            _done(pods.front, "stale", pods.back.pod.ip, PORT, COUNT)
            return witness.count()

    verdicts, _ = pods.traced(happens)
    told = {v["verdict"]: v for v in verdicts["back"]}
    assert set(told) == {"killed_from_host", "connection_of_earlier_life"}
    assert f"{COUNT} connections" in told["connection_of_earlier_life"]["sentence"]


def test_connections_of_the_pod_that_had_the_address_before(
    pods: Pods, containerd: Containerd
) -> None:
    def happens() -> int:
        # what is found at the beginning was there before
        began = time.monotonic()
        wait_for("the beginning's end", lambda: time.monotonic() - began > BEGINNING_NS / 1e9)
        late = containerd.run_pod("late", namespace="shop")
        pods.back = late.run("app", SLEEP)
        with Witness(pods.back) as witness:
            _done(pods.front, "stale", late.ip, PORT, COUNT)
            return witness.count()

    try:
        verdicts, _ = pods.traced(happens)
    finally:
        if pods.back.pod.name == "late":
            pods.back.pod.remove()
    assert summary(verdicts["back"]) == [("connection_of_former_pod", "likely")]


def test_a_listener_that_is_closed_before_it_accepts(pods: Pods) -> None:
    def happens() -> int:
        with Witness(pods.back) as witness:
            with (
                server(pods.back, "deaf", PORT, 4096) as back,
                Talker(pods.front, "knock", pods.back.pod.ip, PORT, COUNT) as front,
            ):
                assert front.said() == "done"
                back.go_on()
                assert back.said() == "done"
            return witness.count()

    verdicts, _ = pods.traced(happens)
    # the kernel's word for it is a vague one
    assert summary(verdicts["back"]) == [("listener_closed", "likely")]
    assert f"{COUNT} connections" in verdicts["back"][0]["sentence"]
    assert summary(verdicts["front"]) == [("reset_by_peer", "certain")]


def test_keepalives_that_nobody_answers(pods: Pods) -> None:
    def happens() -> int:
        with Witness(pods.front) as witness:
            with (
                server(pods.back, "answering", PORT, COUNT),
                Talker(pods.front, "patient", pods.back.pod.ip, PORT, COUNT, 1) as front,
            ):
                assert front.said() == "ready"
                rule(pods.back, "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
                front.go_on()
                assert front.said() == "done"
            # the server, which has heard nothing, closes in the end, and is answered
            wait_for("the last resets", lambda: counted(pods.front, "OutRsts") >= 2 * COUNT)
            return witness.count()

    verdicts, resets = pods.traced(happens)
    reasons = {e["reason"] for e in resets}
    expected = (
        ("keepalive_unanswered", "certain") if reasons != {None} else ("reset_sent", "unknown")
    )
    assert summary(verdicts["front"]) == [expected]
    assert f"{COUNT} connections" in verdicts["front"][0]["sentence"]
    assert summary(verdicts["back"]) == [("policy_drop", "certain")]


def _done(container: ContainerHandle, *order: Any) -> None:
    with Talker(container, *order) as talker:
        assert talker.said() == "done"
