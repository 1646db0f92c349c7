# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a real container in a real pod is killed, and ktrace names the killer.

An own containerd is started (never the host's), a pod `shop/web-0` is made over CRI, and processes
of it die three times: by a program on the host that lies in /tmp and is gone at once, by another
process of the same pod, and by the runtime's stop. What is on the screen is what ktrace prints.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.support.containerd import Containerd, ContainerHandle, PodHandle
from tests.support.wait import wait_for


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Containerd(progress=say) as containerd:
        pod = containerd.run_pod("web-0", namespace="shop", labels={"app": "web"})
        socket = ["--cri-socket", str(containerd.socket)]
        worker = pod.run("worker", ["sh", "-c", "while true; do sleep 1000; done"])
        show("ktrace pods", ["pods", *socket])
        killed_from_the_host(pod, Path(scratch), socket)
        killed_by_a_neighbour(pod, Path(scratch), socket)
        stopped_by_the_runtime(worker, Path(scratch), socket)


def killed_from_the_host(pod: PodHandle, scratch: Path, socket: list[str]) -> None:
    """A program of a random name in /tmp, started by a shell, kills and is gone."""
    container = sleeper(pod, "nginx")
    killer = Path("/tmp/vGhyM0")
    shutil.copy(shutil.which("bash") or "/bin/bash", killer)
    try:
        with Tracing(scratch, 1, ["-p", "shop/web-0", "-o", "wide", *socket]):
            subprocess.run([killer, "-c", f"kill -9 {container.pid}; exit 0"], check=True)
    finally:
        killer.unlink()
    container.wait_exit()
    container.remove()


def killed_by_a_neighbour(pod: PodHandle, scratch: Path, socket: list[str]) -> None:
    container = sleeper(pod, "app")
    with Tracing(scratch, 1, ["-l", "app=web", "--signal", "TERM,KILL", *socket]):
        container.exec(["sh", "-c", "sleep 1000 & kill -9 $!"])
    container.stop(0)
    container.wait_exit()
    container.remove()


def stopped_by_the_runtime(worker: ContainerHandle, scratch: Path, socket: list[str]) -> None:
    """A shell as PID 1 ignores SIGTERM: the kernel says so, and after the grace period SIGKILL."""
    with Tracing(scratch, 2, ["-c", "worker", "--signal", "TERM,KILL", *socket]):
        worker.stop(1)
    worker.wait_exit()


def sleeper(pod: PodHandle, name: str) -> ContainerHandle:
    return pod.run(name, ["sleep", "1000"])


class Tracing:
    """`ktrace signals …` on this terminal, attached before the body runs, until `count` events."""

    def __init__(self, scratch: Path, count: int, arguments: list[str]) -> None:
        self._ready = scratch / "ready"
        self._ready.unlink(missing_ok=True)
        click.secho(f"\n$ ktrace signals {' '.join(arguments)}", bold=True)
        command = [sys.executable, "-m", "tracer", "signals", *arguments]
        command += ["--count", str(count), "--duration", "20s", "--ready-file", str(self._ready)]
        self._process = subprocess.Popen(command)

    def __enter__(self) -> None:
        wait_for("ktrace to attach", self._ready.exists, 20)

    def __exit__(self, *_: object) -> None:
        if self._process.wait(timeout=30):
            raise SystemExit("demo: ktrace failed")


def show(title: str, arguments: list[str]) -> None:
    click.secho(f"\n$ {title}", bold=True)
    subprocess.run([sys.executable, "-m", "tracer", *arguments], check=True)


def say(what: str) -> None:
    click.secho(f"· {what}", dim=True)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make demo needs root: it loads BPF programs and starts containers")
    main()
