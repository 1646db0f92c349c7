# SPDX-License-Identifier: Apache-2.0
"""Resets between real pods: whose port is closed, who asked, and under which names."""

from __future__ import annotations

import socket
from typing import Any

from tests.pods.test_signals import container_json, pod_json
from tests.support.containerd import Containerd, ContainerHandle, PodHandle
from tests.support.ktrace import Ktrace
from tests.support.wait import wait_for

COUNT = 23
CLOSED = 81
SLEEP = ["sleep", "1000"]

Event = dict[str, Any]


def test_a_health_check_from_the_host(web: PodHandle, cri: tuple[str, str]) -> None:
    """No socket and no process: the pod's network namespace tells whose port it is."""
    web.run("app", SLEEP)
    with Ktrace("resets", "-p", "shop/web-0", *cri) as ktrace:
        asked_from = [refused_from_host(web) for _ in range(COUNT)]
        events = ktrace.stop()
        assert ktrace.summary.lost == 0
    assert [end(event["remote"]) for event in events] == asked_from
    for event in events:
        check_closed_port(event, web)
        assert event["remote"]["pod"] is None


def test_a_health_check_from_another_pod(
    web: PodHandle, other: PodHandle, cri: tuple[str, str]
) -> None:
    """Both sides, each with the pod at the other end by its address."""
    web.run("app", SLEEP)
    agent = other.run("agent", SLEEP)
    with Ktrace("resets", *cri) as ktrace:
        refused_from_pod(agent, web, COUNT)
        events = between(ktrace.stop(), web)
    sent = [e for e in events if e["direction"] == "sent"]
    received = [e for e in events if e["direction"] == "received"]
    assert len(sent) == len(received) == COUNT
    for event in sent:
        check_closed_port(event, web)
        assert event["remote"]["address"] == other.ip
        assert event["remote"]["pod"] == pod_json(other)
    for event in received:
        check_refused(event, agent, web)
        assert event["local"]["address"] == other.ip


def test_selected_by_the_side_that_it_happened_to(
    web: PodHandle, other: PodHandle, cri: tuple[str, str]
) -> None:
    web.run("app", SLEEP)
    agent = other.run("agent", SLEEP)
    with (
        Ktrace("resets", "-p", "agent-*", *cri) as of_agent,
        Ktrace("resets", "-l", "app=web", *cri) as of_web,
        Ktrace("resets", "-n", "elsewhere", *cri) as of_none,
    ):
        refused_from_pod(agent, web, COUNT)
        asked, closed, none = (k.stop() for k in (of_agent, of_web, of_none))
    assert [e["direction"] for e in asked] == ["received"] * COUNT
    assert {e["pod"]["name"] for e in asked} == {"agent-0"}
    assert [e["direction"] for e in closed] == ["sent"] * COUNT
    assert {e["pod"]["name"] for e in closed} == {"web-0"}
    assert none == []


def test_a_pod_on_the_hosts_network(
    containerd: Containerd, web: PodHandle, cri: tuple[str, str]
) -> None:
    """Its address is everybody's on the node; its socket's cgroup is its own."""
    web.run("app", SLEEP)
    pod = containerd.run_pod("proxy-0", namespace="system", host_network=True)
    try:
        proxy = pod.run("proxy", SLEEP)
        with Ktrace("resets", *cri) as ktrace:
            refused_from_pod(proxy, web, COUNT)
            refused_from_host(web)
            events = between(ktrace.stop(), web)
    finally:
        pod.remove()
    sent = [e for e in events if e["direction"] == "sent"]
    received = [e for e in events if e["direction"] == "received"]
    assert len(sent) == COUNT + 1
    assert len([e for e in received if e["pod"] is not None]) == COUNT
    for event in sent:
        check_closed_port(event, web)
        assert event["remote"]["pod"] is None
    for event in received:
        if event["pod"] is not None:
            check_refused(event, proxy, web)
        else:
            assert event["remote"]["pod"] == pod_json(web)


def test_a_process_that_closes_with_unread_data(web: PodHandle, cri: tuple[str, str]) -> None:
    """It is known by name, in its container."""
    app = web.run("app", ["nc", "-l", "-p", "8080", "-e", "sleep", "3"])
    wait_for("the port to be open", lambda: is_listening(app.pid, 8080))
    with Ktrace("resets", "-p", "web-0", *cri) as ktrace:
        with socket.create_connection((web.ip, 8080), 10) as client:
            asked_from = client.getsockname()[:2]
            client.sendall(b"hello")
            app.wait_exit()
        (event,) = ktrace.stop()
    assert event["direction"] == "sent"
    assert event["reason"] == "tcp_abort_on_close"
    assert event["meaning"] == "closed with unread data"
    assert event["pod"] == pod_json(web)
    assert event["container"] == container_json(app)
    assert event["local"] == {"address": web.ip, "port": 8080, "pod": pod_json(web)}
    assert end(event["remote"]) == asked_from
    assert event["process"]["pid"] == app.pid
    assert event["process"]["argv"] == ["sleep", "3"]
    assert event["process"]["pod"] == pod_json(web)


def test_a_pod_that_starts_while_tracing(containerd: Containerd, cri: tuple[str, str]) -> None:
    with Ktrace("resets", *cri) as ktrace:
        pod = containerd.run_pod("late-0", namespace="shop")
        try:
            late = pod.run("app", SLEEP)
            # it is looked for twice a second
            wait_for("the new pod to be known", lambda: refused_and_known(ktrace, pod))
            refused_from_pod(late, pod, COUNT)
        finally:
            pod.remove()
        events = between(ktrace.stop(), pod)
    # the pod asks itself: the same events from both ends
    own = [e for e in events if e["remote"]["address"] == e["local"]["address"] == pod.ip]
    assert sorted(e["direction"] for e in own) == ["received"] * COUNT + ["sent"] * COUNT
    for event in own:
        assert event["pod"] == event["local"]["pod"] == event["remote"]["pod"] == pod_json(pod)


def refused_and_known(ktrace: Ktrace, pod: PodHandle) -> bool:
    """With its labels, which the runtime tells later than a log directory tells names."""
    refused_from_host(pod)
    return any(e["pod"] == pod_json(pod) for e in ktrace.events)


def refused_from_host(pod: PodHandle) -> tuple[str, int]:
    """Asks the closed port; from where."""
    with socket.socket() as client:
        client.bind(("", 0))
        port = client.getsockname()[1]
        assert client.connect_ex((pod.ip, CLOSED)) == 111
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect((pod.ip, CLOSED))
            return route.getsockname()[0], port


def refused_from_pod(container: ContainerHandle, pod: PodHandle, times: int) -> None:
    command = f"for i in $(seq {times}); do nc -w 5 {pod.ip} {CLOSED} < /dev/null; done; true"
    assert container.exec(["sh", "-c", command]).exit_code == 0


def between(events: list[Event], pod: PodHandle) -> list[Event]:
    return [e for e in events if pod.ip in (e["local"]["address"], e["remote"]["address"])]


def check_closed_port(event: Event, pod: PodHandle) -> None:
    assert event["kind"] == "tcp_reset"
    assert event["direction"] == "sent"
    assert event["reason"] == "no_socket"
    assert event["meaning"] == "closed port"
    assert event["state"] is None
    assert event["pod"] == pod_json(pod)
    assert event["container"] is None
    assert event["process"] is None
    assert event["local"] == {"address": pod.ip, "port": CLOSED, "pod": pod_json(pod)}


def check_refused(event: Event, container: ContainerHandle, by: PodHandle) -> None:
    assert event["kind"] == "tcp_reset"
    assert event["reason"] == "connection_refused"
    assert event["reason_inferred"] is True
    assert event["state"] == "SYN_SENT"
    assert event["pod"] == event["local"]["pod"] == pod_json(container.pod)
    assert event["container"] == container_json(container)
    assert event["process"] is None
    assert event["remote"] == {"address": by.ip, "port": CLOSED, "pod": pod_json(by)}


def end(side: dict[str, Any]) -> tuple[str, int]:
    return side["address"], side["port"]


def is_listening(pid: int, port: int) -> bool:
    """In the network namespace of a process; LISTEN is 0A."""
    found = False
    for family in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{family}") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        found |= any(r[1].endswith(f":{port:04X}") and r[3] == "0A" for r in rows)
    return found
