# SPDX-License-Identifier: Apache-2.0
"""Incidents staged in real pods, each with its correct verdict.

An incident is a generator. The code before its `yield` runs before `ktrace why` starts to watch;
the code after it is the incident. Twins are incidents that look like another one and must not be
confused with it.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any

import psutil
from typing_extensions import Self

from tests.support.containerd import Containerd, ContainerHandle, PodHandle
from tests.support.cri import CriError
from tests.support.ktrace import HAS_KPROBES, Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.talkers import Talker, counted, in_network, rule, server, setting
from tests.support.wait import wait_for
from tracer.kernel.hierarchies import hierarchies
from tracer.why.common.starting import PREPARING

MIB = 1 << 20
LIMIT = 32 * MIB
ELSEWHERE = "203.0.113.0/24"
PORT, CLOSED = 7777, 81
TIMES = 23
AT_ONCE = 4
# Longer than the slowest machine needs. `why` ends with its verdict.
WATCHED = "300s"
SETTINGS = RLock()
SO_ATTACH_FILTER = 26
MAP_LOCKED = 0x2000
# Also in a guest: gRPC, which makes the pods here, does not survive a fork.
OWN_INTERPRETER = ("env",)
MISHAP_IN_GUEST = Path("/lab/mishap")
SLEEP = ["sleep", "1000"]
SHELL = ["sh", "-c", "while true; do sleep 1000; done"]
# For commands that busybox lacks.
OF_THE_NODE = {"/usr": "/usr", "/lib": "/usr/lib", "/lib64": "/usr/lib64"}
DD = "dd if=/dev/zero of=/dev/null bs=64M count=1"
ORPHANS = Path("/proc/sys/net/ipv4/tcp_max_orphans")
PIPE_LIMITS = {
    Path("/proc/sys/fs/pipe-max-size"): str(256 * MIB),
    Path("/proc/sys/fs/pipe-user-pages-soft"): "0",
    Path("/proc/sys/fs/pipe-user-pages-hard"): "0",
}


IDLE = """
import socket, time
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
end.bind(("0.0.0.0", 5353))
print("bound", flush=True)
time.sleep(1000)
"""
REMOVER = """
import contextlib, os, time
while True:
    with contextlib.suppress(OSError):
        os.unlink("/data/kept")
    time.sleep(0.2)
"""
# With a source, packets are made by hand: RFC 791 has the header, and the kernel its checksum.
SENDER = """
import contextlib, socket, struct, sys
times, to, size, source = sys.argv[1:]
raw = bool(source)
kind = (socket.SOCK_RAW, socket.IPPROTO_RAW) if raw else (socket.SOCK_DGRAM,)
end = socket.socket(socket.AF_INET, *kind)
if not raw:
    end.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER: must not be cut, whatever is known
data = bytes(int(size))
if raw:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    data = head + ends + struct.pack("!HHHH", 40000, 5353, 8 + len(data), 0) + data
for _ in range(int(times)):
    with contextlib.suppress(PermissionError):
        end.sendto(data, (to, 5353))
"""


@dataclass
class Scene:
    """Each incident's own pod `shop/web-0`, and the pods it made besides."""

    containerd: Containerd
    pod: PodHandle
    others: list[PodHandle] = field(default_factory=list)
    watcher: int = 0  # ktrace's pid, once it watches

    def other(self, name: str = "agent-0", host_pid: bool = False) -> PodHandle:
        pod = self.containerd.run_pod(name, namespace="system", host_pid=host_pid)
        self.others.append(pod)
        return pod


Stage = Callable[[Scene], Generator[None, None, None]]


@dataclass(frozen=True)
class Incident:
    """`certainty` is None if it depends on the kernel. `options` are those of `ktrace why`.
    `share_pid` makes the pod's containers share their PID namespace. A `recorded` incident is
    explained from a recording, because live `why` ends with the first end. `cgroup_root` is the
    option of the pod's kubelet."""

    name: str
    verdict: str
    certainty: str | None
    stage: Stage
    options: tuple[str, ...] = ()
    share_pid: bool = False
    recorded: bool = False
    cgroup_root: str = ""


INCIDENTS: list[Incident] = []
# They affect the whole machine, so it must be a guest: see tests.lab.pods.
SMALL_MACHINE: list[Incident] = []


def incident(
    verdict: str,
    certainty: str | None = "certain",
    *,
    options: tuple[str, ...] = (),
    share_pid: bool = False,
    recorded: bool = False,
    cgroup_root: str = "",
    small_machine: bool = False,
) -> Callable[[Stage], Stage]:
    def add(stage: Stage) -> Stage:
        name = stage.__name__.replace("_", " ")
        one = Incident(name, verdict, certainty, stage, options, share_pid, recorded, cgroup_root)
        (SMALL_MACHINE if small_machine else INCIDENTS).append(one)
        return stage

    return add


class SideBySide:
    """Stages a few incidents concurrently, because most of their time is waiting. Each has its own
    pod and ktrace."""

    def __init__(self, containerd: Containerd, incidents: Sequence[Incident]) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._containerd = containerd
        self._running = {one: self._stage(one) for one in dict.fromkeys(incidents)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def verdicts(self, one: Incident) -> list[dict[str, Any]]:
        """Waits for the verdicts."""
        return self._running[one].result()

    def _stage(self, one: Incident) -> Future[list[dict[str, Any]]]:
        return self._pool.submit(run, one, self._containerd)


def check(one: Incident, verdicts: Sequence[dict[str, Any]]) -> None:
    """Checks that the verdict is as expected, and the only one."""
    assert [said["verdict"] for said in verdicts] == [one.verdict], verdicts
    (verdict,) = verdicts
    assert one.certainty in (None, verdict["certainty"]), verdict
    assert bool(verdict["doubts"]) is (verdict["certainty"] != "certain")
    assert (verdict["pod"]["namespace"], verdict["pod"]["name"]) == ("shop", "web-0")
    told = {(line["kind"], line["boot_ns"]) for line in verdict["timeline"]}
    assert verdict["evidence"]
    assert all((event["kind"], event["boot_ns"]) in told for event in verdict["evidence"])
    assert verdict["remedy"]


def run(one: Incident, containerd: Containerd) -> list[dict[str, Any]]:
    """Stages it while ktrace watches, and returns the verdicts."""
    return [json.loads(line) for line in explanation(one, containerd, "json").splitlines()]


def explanation(one: Incident, containerd: Containerd, output: str) -> str:
    """The output of `ktrace why` about it. The pod is chosen by its uid, because other tests on
    this machine have pods of the same name."""
    pod = containerd.run_pod(
        "web-0", namespace="shop", share_pid=one.share_pid, cgroup_root=one.cgroup_root
    )
    scene = Scene(containerd, pod)
    stage = one.stage(scene)
    options = ("--cri-socket", str(containerd.socket), *one.options)
    try:
        next(stage)
        return (_recorded if one.recorded else _watched)(stage, scene, options, output)
    finally:
        stage.close()
        for made in (*scene.others, pod):
            made.remove()


def _watched(stage: Iterator[None], scene: Scene, options: Sequence[str], output: str) -> str:
    words = ("why", scene.pod.uid, *options, "--duration", WATCHED)
    with Ktrace(*words, output=output, inside=OWN_INTERPRETER) as ktrace:
        scene.watcher = ktrace.pid
        _go_on(stage)
        assert ktrace.exit_code() == 0, ktrace.stderr
        return ktrace.output.decode()


def _recorded(stage: Iterator[None], scene: Scene, options: Sequence[str], output: str) -> str:
    uid = scene.pod.uid
    with TemporaryDirectory(prefix="ktrace-test-") as scratch:
        file = str(Path(scratch, "incident.ktrace"))
        with Ktrace("record", "-p", uid, *options, output=file) as ktrace:
            _go_on(stage)
            ktrace.signal(signal.SIGINT)
            assert ktrace.exit_code() == 0, ktrace.stderr
        explained = ktrace_once("why", file, "--pod", uid, "-o", output)
        assert explained.returncode == 0, explained.stderr
        return explained.stdout


def _go_on(stage: Iterator[None]) -> None:
    for _ in stage:
        raise AssertionError("an incident yields once")


@cache
def mishap() -> bytes:
    """The program that ends badly, linked statically. A guest contains it and has no compiler."""
    if MISHAP_IN_GUEST.exists():
        return MISHAP_IN_GUEST.read_bytes()
    source = Path(__file__).with_name("mishap.c")
    with TemporaryDirectory(prefix="ktrace-test-") as scratch:
        program = Path(scratch, "mishap")
        subprocess.run(
            ["clang", "-static", "-O1", "-Wall", "-Werror", "-o", program, source], check=True
        )
        return program.read_bytes()


# Killed by a process


@incident("killed_from_host")
def killed_from_the_host(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    yield
    os.kill(container.pid, signal.SIGKILL)


@incident("killed_from_host")
def killed_by_a_program_that_took_another_name(scene: Scene) -> Generator[None, None, None]:
    """Twin of a stop by the runtime: the program calls itself runc but is not."""
    container = scene.pod.run("app", SLEEP)
    yield
    script = f"exec -a runc {shutil.which('kill')} -9 {container.pid}"
    subprocess.run(["bash", "-c", script], check=True)


def killed_by(name: str, place: str) -> Stage:
    def stage(scene: Scene) -> Generator[None, None, None]:
        container = scene.pod.run("app", SLEEP)
        with TemporaryDirectory(prefix="ktrace-test-", dir=place) as scratch:
            killer = Path(scratch, name)
            shutil.copy("/bin/bash", killer)
            yield
            subprocess.run([killer, "-c", f"kill -9 {container.pid}; exit 0"], check=True)

    stage.__name__ = f"killed_by_{name}_in_{place.lstrip('/')}"
    return stage


# Any file can have a runtime's name.
incident("killed_by_suspicious_process")(killed_by("runc", "/tmp"))
incident("killed_by_suspicious_process", "likely")(killed_by("runc", "/srv"))
incident("killed_by_suspicious_process", "likely")(killed_by("helper", "/srv"))
incident("killed_from_host")(killed_by("helper", "/opt"))  # twin: packages have programs there


@incident("killed_from_other_pod")
def killed_from_another_pod(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    agent = scene.other(host_pid=True).run("agent", SLEEP)
    yield
    agent.exec(["kill", "-9", str(container.pid)])


@incident("killed_from_other_pod")
def killed_from_another_pod_by_a_program_of_its_image(
    scene: Scene,
) -> Generator[None, None, None]:
    """Twin of a program outside the directories of packages: images may put theirs anywhere."""
    container = scene.pod.run("app", SLEEP)
    agent = scene.other(host_pid=True).run("agent", SLEEP)
    yield
    agent.exec(["/mishap", "kill", str(container.pid)])


@incident("killed_from_same_container", "likely", share_pid=True)
def killed_from_the_same_container(scene: Scene) -> Generator[None, None, None]:
    """As PID 1 of its namespace it would be spared."""
    container = scene.pod.run("app", SLEEP)
    yield
    container.exec(["kill", "-9", str(pid_in_pod(container))])


@incident("killed_from_same_pod", "likely", share_pid=True)
def killed_from_the_same_pod(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    neighbour = scene.pod.run("neighbour", SLEEP)
    yield
    neighbour.exec(["kill", "-9", str(pid_in_pod(container))])


# Stopped by the runtime


@incident("stop_ignored")
def a_shell_as_init_ignores_sigterm(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SHELL)
    yield
    container.stop(1)


@incident("stop_unfinished")
def a_handler_that_does_not_finish(scene: Scene) -> Generator[None, None, None]:
    script = "trap 'while true; do sleep 1; done' TERM; sleep 1000 & wait"
    container = scene.pod.run("app", ["sh", "-c", script])
    wait_for("the handler", lambda: handles(container, signal.SIGTERM))
    yield
    container.stop(1)


@incident("stopped_in_time", "likely")
def a_handler_that_finishes(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"])
    wait_for("the handler", lambda: handles(container, signal.SIGTERM))
    yield
    container.stop(10)


@incident("stopped_in_time", "likely")
def a_handler_that_says_143(scene: Scene) -> Generator[None, None, None]:
    """Twin: the code of a death by SIGTERM, but it exited by itself."""
    container = scene.pod.run("app", ["sh", "-c", "trap 'exit 143' TERM; sleep 1000 & wait"])
    wait_for("the handler", lambda: handles(container, signal.SIGTERM))
    yield
    container.stop(10)


@incident("killed_by_runtime", "likely")
def killed_by_the_runtime_at_once(scene: Scene) -> Generator[None, None, None]:
    """SIGTERM might have come before tracing began."""
    container = scene.pod.run("app", SLEEP)
    yield
    container.stop(0)


@incident("killed_by_runtime")
def killed_by_the_runtime_right_after_an_oom_of_a_child(
    scene: Scene,
) -> Generator[None, None, None]:
    """Twin of an OOM kill: the first process did not die of it."""
    yield
    container = scene.pod.run("app", ["sh", "-c", f"{DD}; sleep 1000"], memory_limit=LIMIT)
    wait_for("the kill", lambda: runs(container, SLEEP))
    container.stop(0)


# Memory


@incident("oom_container_limit")
def out_of_memory_at_the_containers_limit(scene: Scene) -> Generator[None, None, None]:
    yield
    scene.pod.run("app", DD.split(), memory_limit=LIMIT)


@incident("oom_pod_limit")
def out_of_memory_at_the_pods_limit(scene: Scene) -> Generator[None, None, None]:
    limit(scene.pod.cgroup)
    yield
    scene.pod.run("app", DD.split())


@incident("oom_other_limit", cgroup_root=f"/ktrace-node-{os.getpid()}")
def out_of_memory_at_the_limit_of_all_pods(scene: Scene) -> Generator[None, None, None]:
    """Twin: the limit around all of a kubelet's pods (node allocatable), not the pod's own."""
    limit(f"{scene.pod.cgroup_root}/kubepods")
    yield
    scene.pod.run("app", DD.split())


@incident("oom_tiny_limit")
def a_limit_in_the_wrong_unit_for_a_container_that_runs(
    scene: Scene,
) -> Generator[None, None, None]:
    script = f"trap '{DD}' USR1; while true; do sleep 1000 & wait; done"
    container = scene.pod.run("app", ["sh", "-c", script])
    wait_for("the handler", lambda: handles(container, signal.SIGUSR1))
    yield
    container.resize(MIB - 1)
    os.kill(container.pid, signal.SIGUSR1)


@incident("oom_of_child")
def out_of_memory_of_a_child(scene: Scene) -> Generator[None, None, None]:
    yield
    scene.pod.run("app", ["sh", "-c", f"{DD}; exec sleep 1000"], memory_limit=LIMIT)


def a_limit_in_the_wrong_unit(scene: Scene) -> Generator[None, None, None]:
    """1024m means 1.024 bytes, which the kubelet rounds up."""
    yield
    with suppress(CriError):
        scene.pod.run("app", SLEEP, memory_limit=2)


# Version 1 of cgroups refuses such a limit; with version 2 runc's first process dies of it.
REFUSES = any(hierarchy.version == 1 for hierarchy in hierarchies())
incident("start_failed" if REFUSES else "oom_tiny_limit")(a_limit_in_the_wrong_unit)
incident("oom_tiny_limit", small_machine=True)(a_limit_in_the_wrong_unit)


@incident("start_failed")
def a_command_that_is_not_in_the_image(scene: Scene) -> Generator[None, None, None]:
    yield
    with suppress(CriError):
        scene.pod.run("app", ["/nonexistent"])


if not HAS_KPROBES:  # these allocations do not reach the function that is probed there

    @incident("page_allocation_at_limit", "likely", options=("--quiet-failures",))
    def a_page_allocation_that_the_limit_refuses(scene: Scene) -> Generator[None, None, None]:
        with large_pipes():
            yield
            container = scene.pod.run(
                "app", ["/mishap", "pipe", "3", "stay"], memory_limit=16 * MIB
            )
            wait_for("its tries", lambda: handles(container, signal.SIGUSR1))

    @incident("start_without_memory", "likely", options=("--quiet-failures",))
    def a_start_that_fails_for_want_of_pages(scene: Scene) -> Generator[None, None, None]:
        with large_pipes():
            yield
            scene.pod.run("app", ["/mishap", "pipe", "3", "go"], memory_limit=16 * MIB).wait_exit()


@incident("oom_system", small_machine=True)
def out_of_memory_on_the_whole_node(scene: Scene) -> Generator[None, None, None]:
    yield
    scene.pod.run("app", ["/mishap", "eat"])


@incident("page_allocation_lack", "likely", options=("--quiet-failures",), small_machine=True)
def a_page_allocation_when_memory_is_gone(scene: Scene) -> Generator[None, None, None]:
    with large_pipes(), unmended_memory():
        yield
        keep_in_memory(scene.watcher)
        container = scene.pod.run("app", ["/mishap", "lack"])
        wait_for("its tries", lambda: handles(container, signal.SIGUSR1), 60)


@incident("page_allocation_fragmented", options=("--quiet-failures",), small_machine=True)
def a_page_allocation_when_memory_is_in_pieces(scene: Scene) -> Generator[None, None, None]:
    with large_pipes(), unmended_memory():
        yield
        container = scene.pod.run("app", ["/mishap", "fragments"])
        wait_for("its tries", lambda: handles(container, signal.SIGUSR1), 60)


# Faults


def fault(kind: str, where: str = "") -> Stage:
    def stage(scene: Scene) -> Generator[None, None, None]:
        yield
        scene.pod.run("app", ["/mishap", kind])

    stage.__name__ = f"a_fault_{kind}{where}"
    return stage


for kind in ("segv", "bus", "fpe", "ill"):
    incident("crashed")(fault(kind))
incident("seccomp")(fault("sys"))
incident("aborted", "likely")(fault("abrt"))  # as PID 1 it is spared SIGABRT itself
incident("aborted", "likely", share_pid=True)(fault("abrt", "_in_a_shared_pid_namespace"))


@incident("ended_itself", "likely", share_pid=True)
def a_signal_to_itself(scene: Scene) -> Generator[None, None, None]:
    """As PID 1 of its namespace it would be spared."""
    yield
    scene.pod.run("app", ["sh", "-c", "kill -TERM $$"])


@incident("child_crashed")
def a_fault_of_a_child(scene: Scene) -> Generator[None, None, None]:
    yield
    scene.pod.run("app", ["sh", "-c", "/mishap segv; exec sleep 1000"])


@incident("child_killed")
def a_child_that_is_killed_from_the_host(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", ["sh", "-c", "sleep 1000; exec sleep 2000"])
    child = wait_for("the child", lambda: runs(container, SLEEP))
    yield
    os.kill(child, signal.SIGKILL)


@incident("child_killed", "likely")
def a_child_that_is_killed_by_an_executed_command(
    scene: Scene,
) -> Generator[None, None, None]:
    """The command is executed as by `kubectl exec`."""
    container = scene.pod.run("app", ["sh", "-c", "sleep 1000; exec sleep 2000"])
    wait_for("the child", lambda: runs(container, SLEEP))
    yield
    container.exec(["killall", "-9", "sleep"])


@incident("exec_probe_failing", "likely")
def a_probe_that_fails(scene: Scene) -> Generator[None, None, None]:
    """It takes a second itself, so it runs every second or so."""
    container = scene.pod.run("app", SLEEP)
    yield
    for _ in range(8):
        assert container.exec(["sh", "-c", "sleep 1; exit 7"]).exit_code == 7


@incident("crashed")
def a_fault_in_a_function_with_a_name(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", ["/mishap", "segv-on-signal"])
    wait_for("the handler", lambda: handles(container, signal.SIGUSR1))
    yield
    wait_for("the container's root", lambda: holds_a_root(scene.watcher))
    os.kill(container.pid, signal.SIGUSR1)


# Ends by itself


def leaves(code: int, script: str) -> Stage:
    def stage(scene: Scene) -> Generator[None, None, None]:
        yield
        scene.pod.run("app", ["sh", "-c", script])

    stage.__name__ = f"exit_with_{code}"
    return stage


for code, script in {
    0: "exit 0",
    3: "exit 3",
    126: "/etc/passwd",
    127: "exec /nonexistent",
    137: "exit 137",  # twin of a SIGKILL, without any signal
    139: "exit 139",
    143: "exit 143",
    255: "exit 255",
}.items():
    incident("exited")(leaves(code, script))


@incident("exited_after_child", "likely")
def a_shell_that_passes_on_the_kill_of_its_child(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", ["sh", "-c", "sleep 1000; exit $?"])
    child = wait_for("the child", lambda: runs(container, SLEEP))
    yield
    os.kill(child, signal.SIGKILL)


@incident("exited_after_child", "likely")
def a_shell_that_passes_on_the_oom_of_its_child(scene: Scene) -> Generator[None, None, None]:
    yield
    scene.pod.run("app", ["sh", "-c", f"{DD}; exit $?"], memory_limit=LIMIT)


@incident("restart_loop", recorded=True)
def a_container_that_is_restarted_and_ends_again(scene: Scene) -> Generator[None, None, None]:
    yield
    for _ in range(3):
        scene.pod.run("app", ["sh", "-c", "exit 3"]).wait_exit()


@incident("killed_from_host", recorded=True)
def killed_from_the_host_in_a_recording(scene: Scene) -> Generator[None, None, None]:
    yield
    container = scene.pod.run("app", SLEEP)
    os.kill(container.pid, signal.SIGKILL)
    container.wait_exit()


# Connections


@incident("closed_port")
def a_health_check_of_a_closed_port(scene: Scene) -> Generator[None, None, None]:
    scene.pod.run("app", SLEEP)
    yield
    for _ in range(TIMES):
        with socket.socket() as client:
            assert client.connect_ex((scene.pod.ip, CLOSED))


@incident("accept_queue_full")
def a_server_that_does_not_accept(scene: Scene) -> Generator[None, None, None]:
    serve(scene, "deaf")
    clients = [knock(scene.pod) for _ in range(2)]
    yield
    for _ in range(TIMES):
        knock(scene.pod).close()
    for client in clients:
        client.close()


@incident("syn_queue_full")
def clients_that_never_finish_to_connect(scene: Scene) -> Generator[None, None, None]:
    container = serve(scene, "deaf")
    namespace = ("nsenter", "--net", f"--target={container.pid}")
    subprocess.run([*namespace, "sysctl", "-qw", "net.ipv4.tcp_syncookies=0"], check=True)
    waiting = [knock(scene.pod, deaf=True) for _ in range(2)]
    yield
    for _ in range(TIMES):
        knock(scene.pod, deaf=True).close()
    for client in waiting:
        client.close()


@incident("reset_unread", None)
def a_server_that_closes_with_unread_data(scene: Scene) -> Generator[None, None, None]:
    serve(scene, "unread")
    yield
    with connection(scene.pod) as client:
        client.sendall(b"hello")
        wait_for_reset(client)


@incident("reset_linger", None)
def a_server_that_does_not_linger(scene: Scene) -> Generator[None, None, None]:
    serve(scene, "linger")
    yield
    with connection(scene.pod) as client:
        client.sendall(b"hello")
        wait_for_reset(client)


@incident("reset_by_peer")
def a_client_that_resets(scene: Scene) -> Generator[None, None, None]:
    """Twin of the two before: the reset comes from the other side."""
    serve(scene, "patient")
    yield
    with connection(scene.pod) as client:
        client.sendall(b"hello")  # a connection without data is a health check
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@incident("refused_by_peer")
def a_service_that_refuses(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("db-0")
    yield
    container.exec(["nc", "-w", "5", other.ip, str(CLOSED)])


@incident("not_by_peer", "likely")
def a_firewall_that_refuses_for_a_service(scene: Scene) -> Generator[None, None, None]:
    """Twin: a server listens there."""
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    match = ("-p", "tcp", "--dport", str(PORT))
    rule(back, "-A", "INPUT", *match, "-j", "REJECT", "--reject-with", "tcp-reset")
    with server(back, "deaf", PORT, 4096):
        yield
        _told(front, "ask", back.pod.ip, PORT, TIMES)


@incident("used_after_close")
def a_pool_that_keeps_connections_longer_than_the_server(
    scene: Scene,
) -> Generator[None, None, None]:
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    with server(back, "keep_alive", PORT, TIMES, 1.0):
        yield
        _told(front, "reuse", back.pod.ip, PORT, TIMES, 0.5)


@incident("closed_before_use")
def a_server_whose_clients_keep_connections_for_longer(
    scene: Scene,
) -> Generator[None, None, None]:
    """The other end of the one before."""
    back, front = scene.pod.run("app", SLEEP), scene.other("front-0").run("app", SLEEP)
    with server(back, "keep_alive", PORT, TIMES, 1.0):
        yield
        _told(front, "reuse", scene.pod.ip, PORT, TIMES, 0.5)


@incident("answered_late")
def a_client_that_does_not_wait_for_the_answer(scene: Scene) -> Generator[None, None, None]:
    back, front = scene.pod.run("app", SLEEP), scene.other("front-0").run("app", SLEEP)
    with server(back, "slow", PORT, TIMES, 0.5):
        yield
        with Talker(front, "give_up", scene.pod.ip, PORT, TIMES, 1.0) as client:
            assert client.said() == "done"
            wait_for("the resets", lambda: counted(front, "OutRsts") >= TIMES)


@incident("reply_not_translated", "likely")
def a_service_whose_replies_conntrack_does_not_know(scene: Scene) -> Generator[None, None, None]:
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    service = ("-d", "198.51.100.10", "-p", "tcp", "--dport", "80")
    to = ("-j", "DNAT", "--to-destination", f"{back.pod.ip}:{PORT}")
    rule(front, "-t", "nat", "-A", "OUTPUT", *service, *to)
    replies = ("-s", back.pod.ip, "-p", "tcp", "--sport", str(PORT))
    rule(front, "-t", "raw", "-A", "PREROUTING", *replies, "-j", "CT", "--notrack")
    with server(back, "deaf", PORT, 4096):
        yield
        with Talker(front, "knock", "198.51.100.10", 80, TIMES) as client:
            assert client.said() == "done"
            wait_for("the resets", lambda: counted(front, "OutRsts") >= TIMES)


@incident("connect_timeout")
def a_service_that_does_not_answer(scene: Scene) -> Generator[None, None, None]:
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    rule(back, "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    setting(front, "net.ipv4.tcp_syn_retries", "2")
    yield
    with Talker(front, "knock", back.pod.ip, PORT, TIMES) as client:
        assert client.said() == "done"
        wait_for("the time-outs", lambda: not connecting(front))


@incident("connect_refused", "likely")
def a_service_without_endpoints(scene: Scene) -> Generator[None, None, None]:
    """As kube-proxy refuses in its name. Twin: `a_firewall_that_refuses_for_a_service`."""
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    rule(back, "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT")
    setting(back, "net.ipv4.icmp_ratelimit", "0")
    yield
    with Talker(front, "knock", back.pod.ip, PORT, TIMES) as client:
        assert client.said() == "done"
        wait_for("the refusals", lambda: not connecting(front))


@incident("no_route_to_peer")
def an_address_that_nobody_has_any_more(scene: Scene) -> Generator[None, None, None]:
    front, gone = scene.pod.run("app", SLEEP), scene.other("back-0")
    address = gone.ip
    scene.others.remove(gone)
    gone.remove()
    yield
    with Talker(front, "knock", address, PORT, TIMES) as client:
        assert client.said() == "done"
        wait_for("the errors", lambda: not connecting(front))


@incident("no_local_port")
def a_client_that_uses_up_its_ports(scene: Scene) -> Generator[None, None, None]:
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    setting(front, "net.ipv4.ip_local_port_range", "40000 40001")
    with server(back, "deaf", PORT, 4096):
        yield
        _told(front, "ask", back.pod.ip, PORT, TIMES)


@incident("out_of_tcp_memory")
def a_client_for_whose_last_words_the_kernel_has_no_room(
    scene: Scene,
) -> Generator[None, None, None]:
    """The limit is that of the whole machine. It is lowered while one connection is closed, which
    takes microseconds."""
    front, back = scene.pod.run("app", SLEEP), scene.other("back-0").run("app", SLEEP)
    with ORPHANS.open("r+") as limit, SETTINGS, server(back, "deaf", PORT, 4096):
        yield
        order = ("orphans", back.pod.ip, PORT, TIMES, limit.fileno(), ORPHANS.read_text().strip())
        with Talker(front, *order, files=(limit.fileno(),)) as client:
            assert client.said() == "done"


@incident("disk_full")
def a_volume_that_is_full(scene: Scene) -> Generator[None, None, None]:
    """Others share it, but only one writes."""
    tries = "dd if=/dev/zero of=/data/big; while true; do date > /data/log; sleep 0.2; done"
    with volume("size=1m") as directory:
        scene.other("back-0").run("app", SLEEP, volumes={"/data": directory})
        yield
        scene.pod.run("app", ["sh", "-c", tries], volumes={"/data": directory})
        until_explained(scene)


@incident("disk_full")
def a_full_volume_with_a_file_of_somebody_else(scene: Scene) -> Generator[None, None, None]:
    """Twin of a file that must not change: EPERM, too, but nobody may remove another's file in a
    sticky directory."""
    tries = "while true; do rm -f /data/tmp/kept; dd if=/dev/zero of=/data/log; sleep 0.2; done"
    with volume("size=1m") as directory:
        sticky = Path(directory, "tmp")
        sticky.mkdir()
        sticky.chmod(0o1777)
        Path(sticky, "kept").touch()
        log = Path(directory, "log")
        log.touch()
        log.chmod(0o666)
        yield
        as_nobody = ["/usr/bin/setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", tries]
        scene.pod.run("app", as_nobody, volumes={"/data": directory, **OF_THE_NODE})
        until_explained(scene)


@incident("immutable_file")
def a_file_that_must_not_change(scene: Scene) -> Generator[None, None, None]:
    """By a program that tries again, as the kubelet does."""
    tries = ["/usr/bin/python3", "-I", "-S", "-c", REMOVER]
    with every_call_watched(), disk() as directory:
        kept = Path(directory, "kept")
        kept.touch()
        subprocess.run(["chattr", "+i", kept], check=True)
        try:
            yield
            scene.pod.run("app", tries, volumes={"/data": directory, **OF_THE_NODE})
            until_explained(scene)
        finally:
            subprocess.run(["chattr", "-i", kept], check=True)


@incident("mount_busy")
def a_volume_that_the_node_holds(scene: Scene) -> Generator[None, None, None]:
    """The node unmounts it, as the kubelet does when the pod is to go."""
    scene.pod.run("app", SLEEP)
    with every_call_watched(), kubelet_volume(scene.pod) as directory, held(directory):
        yield
        until_explained(scene, lambda: unmount(directory))


@incident("disk_full")
def a_full_volume_beside_another_pods_that_is_held(scene: Scene) -> Generator[None, None, None]:
    """Twin of the one before: the volume in use is another pod's."""
    tries = "while true; do dd if=/dev/zero of=/data/log; sleep 0.2; done"
    with (
        volume("size=1m") as own,
        kubelet_volume(scene.other("back-0")) as directory,
        held(directory),
    ):
        yield
        scene.pod.run("app", ["sh", "-c", tries], volumes={"/data": own})
        until_explained(scene, lambda: unmount(directory))


@incident("read_only")
def a_volume_that_becomes_read_only(scene: Scene) -> Generator[None, None, None]:
    tries = "while true; do date > /data/log; sleep 0.2; done"
    with volume("size=1m") as directory:
        scene.pod.run("app", ["sh", "-c", tries], volumes={"/data": directory})
        yield
        wait_for("the first write", Path(directory, "log").exists)
        with every_call_watched():
            subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
            until_explained(scene)


@incident("deleted_but_open")
def a_deleted_log_that_is_still_open(scene: Scene) -> Generator[None, None, None]:
    fills = "exec 3> /data/log; dd if=/dev/zero bs=64k count=16 >&3; rm /data/log; sleep 1000"
    with volume("size=1m") as directory:
        yield
        scene.pod.run("app", ["sh", "-c", fills], volumes={"/data": directory})
        until_explained(scene)


@incident("xtables_lock_held")
def a_lock_of_iptables_that_the_host_holds(scene: Scene) -> Generator[None, None, None]:
    """Another container has the file, too, and leaves the lock alone."""
    attempts = f"for n in $(seq {TIMES}); do /usr/bin/flock -n /run/xtables.lock true; done"
    with volume("size=1m") as directory:
        file = Path(directory, "xtables.lock")
        file.touch()
        scene.other("back-0").run("app", SLEEP, volumes={"/run": directory})
        with subprocess.Popen(
            ["flock", file, "sh", "-c", "echo; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout and holder.stdout.read(1) == b"\n"
            yield
            shared = {"/run": directory, **OF_THE_NODE}
            scene.pod.run("app", ["sh", "-c", f"{attempts}; sleep 1000"], volumes=shared)
            until_explained(scene)
            holder.communicate(b"\n")


@contextmanager
def volume(options: str) -> Iterator[str]:
    """A file system in memory, as an emptyDir."""
    with TemporaryDirectory(prefix="ktrace-test-") as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


def until_explained(scene: Scene, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Keeps what was made until ktrace has its verdict: it looks at the node's file systems."""
    watcher = psutil.Process(scene.watcher)

    def is_over() -> bool:
        meanwhile()
        return watcher.status() == psutil.STATUS_ZOMBIE

    wait_for("the verdict", is_over, interval=0.2)


@contextmanager
def disk() -> Iterator[str]:
    """A file system with attributes of files."""
    with TemporaryDirectory(prefix="ktrace-test-") as scratch:
        file, directory = Path(scratch, "image"), Path(scratch, "disk")
        with file.open("wb") as made:
            made.truncate(16 * MIB)
        subprocess.run(["mkfs.ext4", "-q", file], check=True)
        directory.mkdir()
        subprocess.run(["mount", "-o", "loop", file, directory], check=True)
        try:
            yield str(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def every_call_watched() -> Iterator[None]:
    """Where the kernel's functions cannot be traced, ktrace looks at calls while a file system is
    full: here one that no pod has."""
    with volume("size=4k") as directory:
        Path(directory, "all").write_bytes(bytes(4096))
        yield


@contextmanager
def kubelet_volume(pod: PodHandle) -> Iterator[str]:
    """A volume of a pod, where a kubelet mounts it."""
    root = Path("/var/lib/kubelet/pods", pod.uid)
    directory = root / "volumes" / "kubernetes.io~empty-dir" / "data"
    directory.mkdir(parents=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", directory], check=True)
        try:
            yield str(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)
    finally:
        shutil.rmtree(root)


@contextmanager
def held(directory: str) -> Iterator[None]:
    """By a process of the node that works there."""
    with subprocess.Popen(SLEEP, cwd=directory) as holder:
        try:
            yield
        finally:
            holder.kill()


def unmount(directory: str) -> None:
    """Fails, as it is in use."""
    done = subprocess.run(["umount", directory], capture_output=True, text=True, check=False)
    assert "busy" in done.stderr, done.stderr


def connecting(container: ContainerHandle) -> int:
    """How many sockets of a pod's network wait for an answer to their SYN."""
    lines = Path(f"/proc/{container.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[3] == "02" for line in lines)


# Packets that are dropped


@incident("local_source")
def a_load_balancer_that_sends_back_what_the_pod_sent(scene: Scene) -> Generator[None, None, None]:
    """Its own address is the source of what comes in."""
    scene.pod.run("app", SLEEP)
    other = scene.other("lb-0").run("app", SLEEP)
    yield
    send(other, TIMES, scene.pod.ip, source=scene.pod.ip)


@incident("rp_filter")
def a_way_back_that_leads_elsewhere(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("client-0").run("app", SLEEP)
    in_pod(container, "ip", "route", "add", ELSEWHERE, "dev", "lo")
    for device in ("all", "eth0"):
        setting(container, f"net.ipv4.conf.{device}.rp_filter", "1")
    yield
    send(other, TIMES, scene.pod.ip, source=f"{ELSEWHERE[:-4]}9")


@incident("no_route")
def a_pod_that_forwards_and_has_no_route(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("client-0").run("app", SLEEP)
    setting(container, "net.ipv4.ip_forward", "1")
    in_pod(container, "ip", "route", "del", "default")
    in_pod(other, "ip", "route", "add", ELSEWHERE, "via", scene.pod.ip)
    yield
    send(other, TIMES, f"{ELSEWHERE[:-4]}9")


@incident("mtu")
def a_way_that_takes_smaller_packets(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("client-0").run("app", SLEEP)
    setting(container, "net.ipv4.ip_forward", "1")
    way = ("via", other.pod.ip, "dev", "eth0", "mtu", "lock", "1000")
    in_pod(container, "ip", "route", "add", ELSEWHERE, *way)
    in_pod(other, "ip", "route", "add", ELSEWHERE, "via", scene.pod.ip)
    yield
    send(other, TIMES, f"{ELSEWHERE[:-4]}9", size=1300)


@incident("no_neighbour")
def a_host_that_is_gone(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    in_pod(container, "ip", "route", "add", ELSEWHERE, "dev", "eth0")
    yield
    send(container, 1, f"{ELSEWHERE[:-4]}9")


@incident("policy_drop", "likely")
def a_policy_by_iptables(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("client-0").run("app", SLEEP)
    in_pod(container, "iptables-legacy", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    yield
    send(other, TIMES, scene.pod.ip)


@incident("policy_drop")
def a_policy_by_nftables(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    in_pod(container, "nft", "add table inet ktrace")
    hook = "{ type filter hook output priority 0; }"
    in_pod(container, "nft", f"add chain inet ktrace out {hook}")
    in_pod(container, "nft", "add rule inet ktrace out udp dport 5353 drop")
    yield
    send(container, TIMES, "198.51.100.10")


@incident("receive_buffer")
def a_program_that_does_not_read(scene: Scene) -> Generator[None, None, None]:
    container = scene.pod.run("app", SLEEP)
    other = scene.other("client-0").run("app", SLEEP)
    with subprocess.Popen(
        [*in_network(container), sys.executable, "-I", "-S", "-c", IDLE], stdout=subprocess.PIPE
    ) as idle:
        try:
            assert idle.stdout and idle.stdout.readline()
            yield
            send(other, 10 * TIMES, scene.pod.ip)
        finally:
            idle.kill()


def in_pod(container: ContainerHandle, *command: str) -> None:
    done = subprocess.run(
        [*in_network(container), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stderr)


def send(
    container: ContainerHandle, times: int, to: str, *, source: str = "", size: int = 20
) -> None:
    """UDP packets to port 5353, from a program in the pod's network; what a rule forbids is sent
    nevertheless."""
    words = [str(times), to, str(size), source]
    in_pod(container, sys.executable, "-I", "-S", "-c", SENDER, *words)


def _told(container: ContainerHandle, *order: Any) -> None:
    with Talker(container, *order) as client:
        client.said()


# Helpers for incidents


def keep_in_memory(pid: int) -> None:
    """Locks a process's executable in memory until this process ends, so that it can run when
    memory is short."""
    map_file = ctypes.CDLL(None).mmap
    for mapped in psutil.Process(pid).memory_maps():
        with suppress(OSError), Path(mapped.path).open("rb") as file:
            size = ctypes.c_size_t(os.fstat(file.fileno()).st_size)
            map_file(None, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_LOCKED, file.fileno(), 0)


def pid_in_pod(container: ContainerHandle) -> int:
    status = Path(f"/proc/{container.pid}/status").read_text()
    (numbers,) = (line for line in status.splitlines() if line.startswith("NSpid"))
    return int(numbers.split()[-1])


def handles(container: ContainerHandle, number: int) -> bool:
    """Whether the container's program has a handler for a signal (SigCgt, proc(5)). The runtime's
    process, which is there before it, has one for every signal."""
    status = Path(f"/proc/{container.pid}/status").read_text()
    if status.startswith(f"Name:\t{PREPARING}"):
        return False
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> number - 1 & 1)


def runs(container: ContainerHandle, argv: list[str]) -> int | None:
    """The pid of the container's process with these arguments."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    for pid in container.processes():
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return pid
    return None


def holds_a_root(pid: int) -> bool:
    """A descriptor of a root directory shows as `/`."""
    with suppress(OSError):
        return any(os.readlink(fd) == "/" for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def limit(cgroup: str) -> None:
    """Sets a cgroup's memory limit, as a kubelet does for a pod whose containers all have one, and
    for all pods."""
    for hierarchy in hierarchies():
        for name in ("memory.limit_in_bytes", "memory.max"):
            file = Path(hierarchy.mount + cgroup, name)
            if file.exists():
                file.write_text(str(LIMIT))


def large_pipes() -> AbstractContextManager[None]:
    """Allows pipes of any size to all users: only memory limits them."""
    return settings(PIPE_LIMITS)


def unmended_memory() -> AbstractContextManager[None]:
    """Minimises the kernel's reserves and turns compaction off. The page cache allocated now would
    later be reclaimed in large pieces."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    return settings(
        {
            Path("/proc/sys/vm/extfrag_threshold"): "1000",
            Path("/proc/sys/vm/min_free_kbytes"): "1024",
        }
    )


@contextmanager
def settings(wanted: Mapping[Path, str]) -> Iterator[None]:
    """These settings affect the whole machine, so only one incident has them at a time."""
    with SETTINGS:
        before = {path: path.read_text() for path in wanted}
        try:
            for path, text in wanted.items():
                path.write_text(text)
            yield
        finally:
            for path, text in before.items():
                path.write_text(text)


def serve(scene: Scene, how: str) -> ContainerHandle:
    container = scene.pod.run("app", ["/mishap", "serve", str(PORT), how])
    wait_for("the server", lambda: listens(container))
    return container


def listens(container: ContainerHandle) -> bool:
    """Whether the port listens (state 0A)."""
    rows = Path(f"/proc/{container.pid}/net/tcp").read_text().splitlines()[1:]
    return any(f":{PORT:04X} " in row and " 0A " in row for row in rows)


def connection(pod: PodHandle) -> socket.socket:
    return socket.create_connection((pod.ip, PORT), 10)


def knock(pod: PodHandle, deaf: bool = False) -> socket.socket:
    """Asks for a connection and does not wait for it. A deaf client never gets the answer."""
    client = socket.socket()
    client.setblocking(False)
    if deaf:
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET 0
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(nothing))
        client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    client.connect_ex((pod.ip, PORT))
    return client


def wait_for_reset(client: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while client.recv(16):
            pass
