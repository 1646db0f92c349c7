# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.agent`: what the agent costs: idle beside 30 real pods, under 20,000 signals a
second for a minute, while 10,000 pods with 100,000 processes come and go, as in a day, and how soon
`ktrace why POD` answers from a history of 10,000 deaths. `python -m bench.agent churn` is one of
them: `idle`, `storm`, `churn`, `why`.

Processor time counts, so that whoever else runs on the machine does not. The agent traces every
pod of the machine, also others' that come and go meanwhile: so idle is measured in windows, and
the quietest one is told, too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.churn import Churn, Runtime
from bench.tracers import mount_tracefs
from tests.support.containerd import Containerd
from tests.support.ktrace import Ktrace
from tests.support.wait import wait_for
from tracer.agent.history import INDEX
from tracer.agent.history.entry import Entries, Told
from tracer.agent.history.index import Index
from tracer.agent.item import Life

PODS, WINDOWS, WINDOW_SECONDS = 30, 12, 5
SIGNALS, STORM_SECONDS, BURSTS = 20_000, 60, 100
DEATHS, DAYS, ROUNDS = 10_000, 7, 7
MOST_IDLE, MOST_BYTES, MOST_STORM, MOST_WHY = 0.005, 75 << 20, 0.40, 0.300
# A day's churn in some minutes. What is bounded has filled by the time that this part is over.
CHURNED, EACH, RATE, FILLED, TENTHS = 10_000, 8, 20, 0.3, 20
MOST_GROWTH = 0.05
NS = 1_000_000_000


def main(what: Sequence[str]) -> None:
    # An installed ktrace has compiled modules; in a clone the first run has to make them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not what or "why" in what:
        answers()
    if what == ["why"]:
        return
    if os.geteuid():
        raise SystemExit("bench.agent needs root")
    mount_tracefs()
    if not what or "idle" in what or "storm" in what:
        node(what)
    if not what or "churn" in what:
        churned()


def answers() -> None:
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as directory:
        fill(Path(directory))
        size = (Path(directory) / INDEX).stat().st_size
        print(f"history: {DEATHS} deaths in {DAYS} days, an index of {size >> 10} KiB")
        for name in (f"shop/web-{DEATHS - 1}", "shop/web-0"):
            walls, processor = [], []
            for _ in range(ROUNDS):
                began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-m", "tracer", "why", name, "--dir", directory]
                told = subprocess.run(command, capture_output=True, text=True, check=True)
                walls.append(time.monotonic() - began)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                processor.append(
                    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                )
                assert told.stdout.startswith(f"{name} app: ")
            print(
                f"why {name}: {min(processor) * 1000:.0f} ms of processor time,"
                f" {min(walls) * 1000:.0f} ms until it has ended (at most {MOST_WHY * 1000:.0f})"
            )


def fill(directory: Path) -> None:
    """A death each minute; the evidence has the size of a real one's."""
    index = Index(directory / INDEX)
    now = time.time_ns()
    evidence = [{"kind": "signal", "text": f"SIGKILL from sh[{n}] ({n * n})"} for n in range(20)]
    for number in range(DEATHS):
        at = now - (DEATHS - number) * (DAYS * 86400 * NS // DEATHS)
        life = Life(
            pod_uid=f"{number:08x}-0000-4000-8000-000000000000",
            namespace="shop",
            pod=f"web-{number}",
            container="app",
            container_id=f"{number:064x}",
            runtime="containerd",
            began_ns=at - 60 * NS,
            ended_ns=at,
            exit_code=137,
            signal=9,
        )
        line = json.dumps({"kind": "verdict", "number": number, "timeline": evidence}).encode()
        text = f"shop/web-{number} app: killed\n  certain: the kernel said so\n" + "x" * 1500
        told = Told(life, at, "killed_from_host", "certain", "killed", True, line, text)
        index.take(1, 1, number, Entries((), (told,)), now)
    index.close()


def node(what: Sequence[str]) -> None:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ktrace-bench-"))
        containerd = stack.enter_context(Containerd())
        pods = [containerd.run_pod(f"bench-{os.getpid()}-{n}", "shop") for n in range(PODS)]
        for pod in pods:
            stack.callback(pod.remove)
        containers = [pod.run("app", ["sleep", "100000"]) for pod in pods]
        words = ["agent", "--dir", f"{directory}/history", "--listen", "127.0.0.1:19464"]
        words += ["--cri-socket", str(containerd.socket), "--prometheus", *sys.argv[2:]]
        agent = stack.enter_context(Ktrace(*words, output=None))
        wait_for("the names", lambda: health()["seconds"] > 10)
        if not what or "idle" in what:
            shares = sorted(share(agent.pid, WINDOW_SECONDS) for _ in range(WINDOWS))
            size = health()["memory_bytes"] >> 20
            print(
                f"idle beside {PODS} pods: {statistics.mean(shares) * 100:.2f} % of a core"
                f" (at most {MOST_IDLE * 100:g}), in the quietest {WINDOW_SECONDS} s"
                f" {shares[0] * 100:.2f} %; {size} MiB (at most {MOST_BYTES >> 20})"
            )
        if not what or "storm" in what:
            storm(containers[0].pid)
        agent.stop(signal.SIGTERM)
        print(agent.stderr.splitlines()[-1])


def storm(pid: int) -> None:
    before = health()
    sent, began = 0, time.monotonic()
    while time.monotonic() - began < STORM_SECONDS:
        due = int((time.monotonic() - began) * BURSTS) + 1
        while sent < due * SIGNALS // BURSTS:
            os.kill(pid, signal.SIGCONT)
            sent += 1
        time.sleep(max(0.0, began + due / BURSTS - time.monotonic()))
    seconds = time.monotonic() - began

    def seen() -> int:
        after = health()
        lost = sum(after["lost"].values()) - sum(before["lost"].values())
        return int(after["events"] - before["events"] + lost)

    wait_for("the events", lambda: seen() >= sent, timeout=120)
    after = health()
    lost = sum(after["lost"].values()) - sum(before["lost"].values())
    share = (after["cpu_seconds"] - before["cpu_seconds"]) / seconds
    print(
        f"{sent / seconds:.0f} signals a second for {seconds:.0f} s: {share * 100:.0f} % of a core"
        f" (at most {MOST_STORM * 100:g}), {lost} lost and counted,"
        f" {sent - (after['events'] - before['events']) - lost} uncounted,"
        f" {after['memory_bytes'] >> 20} MiB, history {after['history']['bytes'] >> 20} MiB,"
        f" {after['history']['unrecorded']} unrecorded"
    )


def churned() -> None:
    """The kernel's side of the pods is real, as in bench.churn."""
    with ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="ktrace-bench-", dir="/var/tmp")
        folder = Path(stack.enter_context(scratch))
        pods = stack.enter_context(Churn(folder, CHURNED, RATE, EACH))
        stack.enter_context(Runtime(folder / "cri.sock", pods))
        words = ["agent", "--dir", f"{folder}/history", "--listen", "127.0.0.1:19464"]
        words += ["--cri-socket", f"{folder}/cri.sock", "--prometheus"]
        agent = stack.enter_context(Ktrace(*words, output=None))
        wait_for("the names", lambda: health()["seconds"] > 10)
        print(f"{CHURNED} pods, {RATE} a second, {CHURNED * (EACH + 2)} processes:")
        maker = threading.Thread(target=pods.run)
        maker.start()
        curve = [resident(agent.pid)]
        for part in range(1, TENTHS + 1):
            due = CHURNED * part // TENTHS
            while pods.made < due and maker.is_alive():
                time.sleep(0.2)
            curve.append(resident(agent.pid))
            print(f"  after {pods.made:6} pods {curve[-1] / (1 << 20):6.1f} MiB", flush=True)
        maker.join()
        assert pods.made == CHURNED
        flat = curve[int(len(curve) * FILLED) :]
        after = health()
        print(
            f"memory after the first {FILLED:.0%}: {min(flat) / (1 << 20):.1f} to"
            f" {max(flat) / (1 << 20):.1f} MiB, {max(flat) / flat[0] - 1:+.1%} of its begin (at"
            f" most {MOST_GROWTH:+.0%}); {after['events']} events,"
            f" lost {after['lost'] or 'none'}, {after['verdicts']} verdicts,"
            f" {after['cpu_seconds'] / pods.seconds:.1%} of a core,"
            f" history {after['history']['bytes'] >> 10} KiB"
        )
        agent.stop(signal.SIGTERM)
        print(agent.stderr.splitlines()[-1])


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def share(pid: int, seconds: float) -> float:
    """The share of a core meanwhile. The agent is not asked for it."""
    before, began = ran_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (ran_ns(pid) - before) / 1e9 / (time.monotonic() - began)


def ran_ns(pid: int) -> int:
    """The nanoseconds that the present threads have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def health() -> dict[str, Any]:
    with urllib.request.urlopen("http://127.0.0.1:19464/healthz", timeout=60) as got:
        told: dict[str, Any] = json.load(got)
        return told


if __name__ == "__main__":
    main(sys.argv[1:2])
