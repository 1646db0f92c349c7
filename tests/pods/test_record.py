# SPDX-License-Identifier: Apache-2.0
"""Recordings of real pods: the names that came late, several probes, and pods that are gone by the
time somebody looks."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.support.containerd import Containerd
from tests.support.ktrace import Ktrace, run
from tests.support.perfetto import slices

TIMES = 23
PROBES = "signals,exits,oom,resets,backlog"
DD = "dd if=/dev/zero of=/dev/null bs=64M count=1"
NO_SERVER = "nc -w 1 127.0.0.1 9 </dev/null"


def replay(recording: Path, *arguments: str) -> str:
    ended = run("replay", str(recording), "-o", "json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def misfortunes(containerd: Containerd, name: str) -> str:
    """A pod that is new, in which things end badly, and that is gone afterwards. Its uid."""
    pod = containerd.run_pod(name, namespace="shop", labels={"app": name})
    try:
        one = pod.run("one", ["sleep", "1000"])
        one.exec(["sh", "-c", f"for i in $(seq {TIMES}); do sh -c 'kill -CONT 1'; done"])
        one.exec(["sh", "-c", f"{NO_SERVER}; true"])
        two = pod.run("two", DD.split(), memory_limit=32 << 20)
        assert two.wait_exit() == 137
        os.kill(one.pid, 9)
        assert one.wait_exit() == 137
    finally:
        pod.remove()
    return pod.uid


def test_a_replay_says_what_the_live_run_said(
    containerd: Containerd, cri: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "node.ktrace"
    with Ktrace("trace", PROBES, "--signal", "all", "--record", str(file), *cri) as ktrace:
        uid = misfortunes(containerd, "cart-0")
        events = ktrace.stop()
        shown = ktrace.output.decode()
    mine = [event for event in events if event["pod"] and event["pod"]["uid"] == uid]
    assert {event["kind"] for event in mine} == {"signal", "exit", "oom", "tcp_reset"}
    assert {event["pod"]["name"] for event in mine} == {"cart-0"}
    assert replay(file) == shown


def test_what_was_never_looked_at_has_its_names(
    containerd: Containerd, cri: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "node.ktrace"
    with Ktrace("record", PROBES, *cri, output=str(file)) as ktrace:
        uid = misfortunes(containerd, "cart-0")
        other = misfortunes(containerd, "cart-1")
        ktrace.stop()
    events = [json.loads(line) for line in replay(file, "-p", "shop/cart-0").splitlines()]
    assert {event["pod"]["uid"] for event in events} == {uid}
    continued = [e for e in events if e["kind"] == "signal" and e["signal"]["name"] == "SIGCONT"]
    assert len(continued) == TIMES
    for event in continued:
        assert event["origin"] == "same-container"
        assert event["container"]["name"] == "one"
        assert event["pod"]["labels"] == {"app": "cart-0"}
        assert event["sender"]["argv"] == ["sh", "-c", "kill -CONT 1"]
    (oom,) = [event for event in events if event["kind"] == "oom"]
    assert (oom["limit_of"], oom["limit_bytes"]) == ("container", 32 << 20)
    assert oom["gfp_flags"]
    by_label = replay(file, "-l", "app=cart-1").splitlines()
    assert {json.loads(line)["pod"]["uid"] for line in by_label} == {other}
    told = json.loads(run("info", str(file), "-o", "json").stdout)
    check_info(told, uid, events)


def test_the_life_of_a_container(
    containerd: Containerd, cri: tuple[str, str], tmp_path: Path
) -> None:
    """From when the runtime makes its cgroup until it removes it. Of one that was there before the
    recording it begins with that; one lives on."""
    file, trace = tmp_path / "node.ktrace", tmp_path / "trace"
    pod = containerd.run_pod("cart-0", namespace="shop")
    try:
        earlier = pod.run("earlier", ["sleep", "1000"])
        start = boot_ns()
        with Ktrace("record", PROBES, *cri, output=str(file)) as ktrace:
            ready = boot_ns()
            one = pod.run("one", ["sleep", "1000"])
            made = boot_ns()
            two = pod.run("two", ["sleep", "1000"])
            for container in (earlier, one, two):
                container.exec(["sh", "-c", "kill -CONT 1"])
            kill = boot_ns()
            for container in (earlier, one):
                os.kill(container.pid, 9)
                assert container.wait_exit() == 137
                container.remove()
            gone = boot_ns()
            ktrace.stop()
    finally:
        pod.remove()
    exported = run("export", str(file), "-f", "perfetto", "-p", "cart-0", "-o", str(trace))
    assert exported.returncode == 0, exported.stderr
    lives = slices(trace)
    assert lives.keys() == {"earlier", "one", "two"}
    assert start <= lives["earlier"][0] <= ready <= lives["one"][0] <= made <= lives["two"][0]
    for name in ("earlier", "one"):
        assert kill <= (lives[name][1] or 0) <= gone
    assert lives["two"][1] is None


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def check_info(told: dict[str, Any], uid: str, events: list[dict[str, Any]]) -> None:
    assert told["complete"] is True
    (pod,) = [pod for pod in told["pods"] if pod["uid"] == uid]
    assert (pod["namespace"], pod["name"]) == ("shop", "cart-0")
    for kind in ("signal", "exit", "oom"):
        assert pod["events"][kind] == len([event for event in events if event["kind"] == kind])
