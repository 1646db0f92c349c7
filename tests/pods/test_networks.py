# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of real pods, which come late, go soon, or leave their number to others: each
reset is told of the pod that it was.

Processes that need rights which no container of the tests has are started here and put into the
container: its cgroups and its PID namespace."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.churn import churn
from tests.pods.test_resets import CLOSED, SLEEP, end, refused_from_host
from tests.pods.test_signals import pod_json
from tests.support import leftovers
from tests.support.containerd import (
    EXECUTING_PLUGINS,
    Containerd,
    ContainerHandle,
    PodHandle,
)
from tests.support.ktrace import Ktrace
from tests.support.wait import wait_for

REPLACED = 53
TIMES = 23
REFUSED = f"""
import socket
client = socket.socket()
client.bind(("127.0.0.1", 0))
assert client.connect_ex(("127.0.0.1", {CLOSED})) == 111
print(client.getsockname()[1])
"""
ASKED = f"""
import socket, sys
client = socket.socket()
client.bind((sys.argv[1], int(sys.argv[2])))
assert client.connect_ex((sys.argv[1], {CLOSED})) == 111
"""
ASK = sys.executable, "-c", ASKED
# A queue with room for one; the next is turned away, and tries again until it is told to end.
FULL = """
import socket, sys
server = socket.socket()
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen(0)
clients = [socket.socket() for _ in range(3)]
for client in clients:
    client.setblocking(False)
    client.connect_ex(server.getsockname())
sys.stdin.read()
"""
PORTS = range(7001, 7012)
INSIDE = ("sh", "-c", 'ip link set lo up; exec "$0" "$@"', sys.executable, "-c")

Event = dict[str, Any]


def test_replaced_pods(containerd: Containerd) -> None:
    """Also what they refuse at once: it waits at most a second to learn whose it is, and where a
    busy machine takes longer it is nobody's, and never another's."""
    tally = churn(containerd, REPLACED)
    assert tally.good, (tally.in_words(), tally.mistakes[:1])
    assert tally.count("unnamed") * 20 <= tally.told.total(), tally.in_words()


def test_replaced_pods_whose_network_is_made_by_programs_in_their_namespaces() -> None:
    """They execute there before the pod does, and no addresses are found through them. The
    addresses come back after two dozen pods."""
    with Containerd(plugins=EXECUTING_PLUGINS) as containerd:
        tally = churn(containerd, REPLACED)
    assert tally.good, (tally.in_words(), tally.mistakes[:1])


@pytest.mark.parametrize("pid_namespace", [True, False], ids=["own-pids", "host-pids"])
def test_a_namespace_that_is_made_late_and_ends_soon(
    web: PodHandle, other: PodHandle, cri: tuple[str, str], pid_namespace: bool
) -> None:
    """One after the other, all with the same number, in two pods by turns."""
    containers = web.run("app", SLEEP), other.run("agent", SLEEP)
    expected = {}
    with Ktrace("resets", *cri) as ktrace:
        for number in range(TIMES):
            container = containers[number % 2]
            enter = ("nsenter", "-t", str(container.pid), "-p") if pid_namespace else ()
            port = put_into(container, *enter, "unshare", "-n", *INSIDE, REFUSED)
            expected[port] = pod_json(container.pod)
        events = ktrace.stop()
    told = [e for e in events if e["remote"]["port"] in expected and e["direction"] == "sent"]
    assert len(told) == TIMES
    for event in told:
        assert event["pod"] == event["local"]["pod"] == expected[event["remote"]["port"]]
        assert event["remote"]["pod"] == event["pod"]


def test_a_pod_that_enters_anothers(web: PodHandle, other: PodHandle, cri: tuple[str, str]) -> None:
    """The namespace stays its pod's, while the visitor is there and after."""
    app, agent = web.run("app", SLEEP), other.run("agent", SLEEP)
    enter = ("nsenter", "-t", str(agent.pid), "-p", "nsenter", "-t", str(app.pid), "-n")
    with Ktrace("resets", *cri) as ktrace:
        port = put_into(agent, *enter, *INSIDE, REFUSED)
        asked_from = refused_from_host(web)
        events = ktrace.stop()
    sent = [e for e in events if e["direction"] == "sent"]
    mine = [e for e in sent if e["remote"]["port"] == port or end(e["remote"]) == asked_from]
    assert len(mine) == 2
    assert all(e["pod"] == e["local"]["pod"] == pod_json(web) for e in mine)


@pytest.mark.parametrize("host_pid", [False, True], ids=["own-pids", "host-pids"])
def test_a_pod_on_the_hosts_network(
    containerd: Containerd, web: PodHandle, cri: tuple[str, str], host_pid: bool
) -> None:
    """What it executes tells the node's own namespace, which never becomes its: not while it is
    there and nobody else does anything, and not afterwards. Its own sockets are told by their
    cgroup."""
    address, _ = refused_from_host(web)
    ports = range(7100, 7100 + 3 * TIMES)
    its, nodes, later = (ports[n * TIMES : (n + 1) * TIMES] for n in range(3))
    with Ktrace("resets", "--all", *cri) as ktrace:
        pod = containerd.run_pod("proxy-0", "system", host_network=True, host_pid=host_pid)
        try:
            proxy = pod.run("proxy", SLEEP)
            for port in its:
                run(*into(proxy, *ASK, address, str(port)))
            for port in nodes:
                run(*ASK, address, str(port))
        finally:
            pod.remove()
        for port in later:
            run(*ASK, address, str(port))
        events = ktrace.stop()
    for port in ports:
        (sent,) = [e for e in events if end(e["remote"]) == (address, port)]
        (received,) = [e for e in events if end(e["local"]) == (address, port)]
        assert (sent["direction"], received["direction"]) == ("sent", "received")
        assert sent["pod"] is sent["local"]["pod"] is sent["remote"]["pod"] is None
        owner = pod_json(pod) if port in its else None
        assert received["pod"] == received["local"]["pod"] == owner
        assert received["remote"]["pod"] is None


def test_a_namespace_that_a_pod_on_the_hosts_network_makes(
    containerd: Containerd, cri: tuple[str, str]
) -> None:
    """That one is its own."""
    pod = containerd.run_pod("proxy-0", "system", host_network=True)
    try:
        proxy = pod.run("proxy", SLEEP)
        with Ktrace("resets", *cri) as ktrace:
            enter = ("nsenter", "-t", str(proxy.pid), "-p")
            port = put_into(proxy, *enter, "unshare", "-n", *INSIDE, REFUSED)
            events = ktrace.stop()
    finally:
        pod.remove()
    (sent,) = [e for e in events if e["remote"]["port"] == port and e["direction"] == "sent"]
    assert sent["pod"] == sent["local"]["pod"] == sent["remote"]["pod"] == pod_json(pod)


def test_a_sandbox_that_is_made_again(web: PodHandle, cri: tuple[str, str]) -> None:
    """Another namespace and another address for the same pod."""
    with Ktrace("resets", "-p", "shop/web-0", *cri) as ktrace:
        before, was = web.ip, refused_from_host(web)
        web.start_again()
        after = refused_from_host(web)
        events = ktrace.stop()
    assert [end(e["remote"]) for e in events] == [was, after]
    assert [e["local"]["address"] for e in events] == [before, web.ip]
    assert all(e["pod"] == pod_json(web) for e in events)


def test_full_queues_in_namespaces_that_end_soon(
    web: PodHandle, other: PodHandle, cri: tuple[str, str]
) -> None:
    """Made when nobody looks for new ones any more."""
    containers = web.run("app", SLEEP), other.run("agent", SLEEP)
    with Ktrace("backlog", *cri) as ktrace, contextlib.ExitStack() as running:
        for port in PORTS:
            container = containers[port % 2]
            inside = ("unshare", "-n", *INSIDE, FULL, str(port))
            command = into(container, "nsenter", "-t", str(container.pid), "-p", *inside)
            running.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
        wait_for("the drops", lambda: {e["local"]["port"] for e in ktrace.events} >= {*PORTS})
        running.close()
        events = ktrace.stop()
    for event in events:
        assert event["pod"] == pod_json(containers[event["local"]["port"] % 2].pod)


def put_into(container: ContainerHandle, *command: str) -> int:
    """Runs it in the container's cgroups, and returns the port that it prints."""
    return int(run(*into(container, *command)))


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def into(container: ContainerHandle, *command: str) -> tuple[str, ...]:
    path = container.cgroup.lstrip("/")
    procs = [root / path / "cgroup.procs" for root in leftovers.cgroup_roots()]
    joins = "".join(f"echo $$ > {file}; " for file in procs if file.exists())
    return ("sh", "-c", f'{joins} exec "$0" "$@"', *command)
