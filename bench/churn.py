# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.churn`: ktrace's memory while pods come and go.

`--pods` of them, 160 a second. The kernel's side is real: cgroups, namespaces, executed programs,
exits (churn.c). A runtime that only knows names provides those, with labels. There is no kubelet:
nothing is pulled, mounted or logged, which is what makes a real pod slow.

Each command traces the same pods. Reported are its resident memory when ready and at most, and the
share of one pod.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table
from typing_extensions import Self

from bench.live import Terminal
from tests.support.cri import message, message_class
from tracer import probes
from tracer.kernel.hierarchies import hierarchies

# Each worker keeps LIVING pods at the same time; the runtime names AHEAD more.
PODS, RATE, WORKERS, LIVING, AHEAD = 6000, 160, 4, 25, 40
AIM_MB = 128
PATIENCE = 60.0
KTRACE = (sys.executable, "-m", "tracer")
LABELS = {f"example.com/label-{n}": f"value-{n}" for n in range(8)} | {"app": "churn"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.churn")
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--only", help="one of the commands", choices=COMMANDS)
    chosen = parser.parse_args()
    if os.geteuid():
        raise SystemExit("bench.churn needs root")
    names = [chosen.only] if chosen.only else list(COMMANDS)
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        churn = Churn(folder, chosen.pods)
        with churn, Runtime(folder / "cri.sock", churn), ExitStack() as stack:
            running = {n: stack.enter_context(Traced(n, COMMANDS[n], folder)) for n in names}
            before = {n: ktrace.settled() for n, ktrace in running.items()}
            churn.run()
            after = {n: ktrace.peak() for n, ktrace in running.items()}
        closing = {n: ktrace.closing_line() for n, ktrace in running.items()}
    show(chosen.pods, churn, before, after, closing)


# `why` follows replaced pods and reports each end.
COMMANDS: dict[str, tuple[str, ...]] = {
    "trace": ("trace", ",".join(probes.names()), "-o", "json"),
    "record": ("record", "-o", "{folder}/node.ktrace"),
    "flight": ("record", "-o", "{folder}/flights", "--flight", "10m", "--trigger", "oom"),
    "live": ("live",),
    "why": ("why", "-l", "app=churn", "--wait"),
    "agent": ("agent", "--dir", "{folder}/history", "--listen", ""),
}


@dataclass
class Closing:
    events: int
    lost: int
    undescribed: int


class Traced:
    """A ktrace on a terminal, as `live` needs one; the output of `trace` and `why` is discarded."""

    def __init__(self, name: str, command: tuple[str, ...], folder: Path) -> None:
        self._ready = folder / f"{name}.ready"
        words = [word.format(folder=folder) for word in command]
        words += ["--cri-socket", str(folder / "cri.sock"), "--ready-file", str(self._ready)]
        quiet = [] if name == "live" else ["sh", "-c", 'exec "$@" >/dev/null', "sh"]
        self._terminal = Terminal(*quiet, *KTRACE, *words)
        self._peak = 0.0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.process.terminate()
        self._thread.join(PATIENCE)
        self._terminal.__exit__()

    def settled(self) -> float:
        """Resident memory in MB once its start-up work is done."""
        deadline, busy, used = time.monotonic() + PATIENCE, -1.0, 0.0
        while used - busy > 0.3 or not self._ready.exists():
            time.sleep(1)
            if self._terminal.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"ktrace does not start: {self._terminal.last.decode()}")
            busy, used = used, self._cpu_seconds()
        return self._memory("VmRSS")

    def peak(self) -> float:
        """The most memory it had. `why` ends by itself after an event other than a pod's end."""
        if self._terminal.process.poll() is None:
            self.settled()
        return self._peak

    def _follow(self) -> None:
        while self._terminal.process.poll() is None:
            self._terminal.read_for(0.2)
            with suppress(OSError, AssertionError):  # it may be ending
                self._peak = max(self._peak, self._memory("VmHWM"))
        self._terminal.to_the_end()

    def closing_line(self) -> Closing:
        said = self._terminal.last.decode()
        found = re.search(r"ktrace: (\d+) events, (\d+) lost", said)
        if not found:
            raise SystemExit(said)
        undescribed = re.search(r"(\d+) descriptions", said)
        return Closing(int(found[1]), int(found[2]), int(undescribed[1]) if undescribed else 0)

    def _cpu_seconds(self) -> float:
        words = self._proc("stat").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self, which: str) -> float:
        found = re.search(rf"{which}:\s+(\d+) kB", self._proc("status"))
        assert found
        return int(found[1]) / 1024

    def _proc(self, file: str) -> str:
        return Path(f"/proc/{self._terminal.process.pid}/{file}").read_text()


class Churn:
    """Pods that come and go, in this process's own cgroups: `rate` a second, each with `processes`
    short-lived ones besides its first two."""

    def __init__(self, folder: Path, pods: int, rate: int = RATE, processes: int = 0) -> None:
        self.living: set[int] = set()
        self.made = 0
        self.seconds = 0.0
        self._pods = pods
        self._rate = rate
        self._processes = processes
        self._program = folder / "churn"
        source = Path(__file__).with_name("churn.c")
        subprocess.run(
            ["clang", "-O2", "-Wall", "-static", "-o", self._program, source], check=True
        )
        tops = [Path(h.mount, f"ktrace-bench-{os.getpid()}") for h in hierarchies()]
        self._roots = [top / "kubepods/burstable" for top in tops]

    def __enter__(self) -> Self:
        for root in self._roots:
            root.mkdir(parents=True)
        return self

    def __exit__(self, *raised: object) -> None:
        for root in self._roots:
            for folder, _, _ in os.walk(root.parents[1], topdown=False):
                Path(folder).rmdir()

    def run(self) -> None:
        began, each = time.monotonic(), self._pods // WORKERS
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self._work, range(0, each * WORKERS, each), [each] * WORKERS))
        self.seconds = time.monotonic() - began

    def _work(self, first: int, count: int) -> None:
        numbers = (first, count, LIVING, self._rate // WORKERS, self._processes)
        self.living.add(first)
        command = [str(self._program), *map(str, numbers), *map(str, self._roots)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                self.made += 1
                self.living.add(int(line))
                self.living.discard(int(line) - LIVING)
        for pod in range(first + count - LIVING, first + count):
            self.living.discard(pod)
        if process.returncode:
            raise SystemExit("the pods could not be made")


class Runtime:
    """A container runtime that knows those pods."""

    def __init__(self, socket: Path, churn: Churn) -> None:
        self._churn = churn
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "runtime.v1.RuntimeService",
                    {
                        method: grpc.unary_unary_rpc_method_handler(
                            getattr(self, f"_{method}"),
                            request_deserializer=message_class(f"{method}Request").FromString,
                            response_serializer=lambda answer: answer.SerializeToString(),
                        )
                        for method in ("Version", "ListPodSandbox", "ListContainers")
                    },
                ),
            )
        )
        self._server.add_insecure_port(f"unix:{socket}")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def _Version(self, request: Any, context: Any) -> Any:
        return message("VersionResponse", runtime_name="containerd", runtime_version="1.6.20")

    def _ListPodSandbox(self, request: Any, context: Any) -> Any:
        items = [
            message(
                "PodSandbox",
                id=f"{pod:056x}{1:08x}",
                metadata=message(
                    "PodSandboxMetadata",
                    name=f"server-7c9f8d6b5-{pod:05d}",
                    namespace="churn",
                    uid=f"{pod:08x}-0000-4000-8000-000000000000",
                ),
                labels=LABELS | {"number": str(pod)},
            )
            for pod in self._known()
        ]
        return message("ListPodSandboxResponse", items=items)

    def _ListContainers(self, request: Any, context: Any) -> Any:
        containers = [
            message(
                "Container",
                id=f"{pod:056x}{2:08x}",
                pod_sandbox_id=f"{pod:056x}{1:08x}",
                metadata=message("ContainerMetadata", name="server"),
                state=1,
            )
            for pod in self._known()
        ]
        return message("ListContainersResponse", containers=containers)

    def _known(self) -> list[int]:
        """The runtime knows a pod before it runs."""
        return sorted({pod + n for pod in self._churn.living.copy() for n in range(AHEAD)})


def show(
    pods: int,
    churn: Churn,
    before: dict[str, float],
    after: dict[str, float],
    closing: dict[str, Closing],
) -> None:
    title = f"{pods:,} pods in {churn.seconds:.0f} s"
    columns = (
        "",
        "ready, MB",
        "at most",
        "aim",
        "",
        "bytes a pod",
        "events",
        "lost",
        "undescribed",
    )
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    for name, peak in after.items():
        told = closing[name]
        table.add_row(
            *(name, f"{before[name]:.0f}", f"{peak:.0f}", f"≤ {AIM_MB}"),
            "✔" if peak <= AIM_MB else "✘",
            f"{(peak - before[name]) * (1 << 20) / pods:,.0f}",
            *(f"{told.events:,}", f"{told.lost:,}", f"{told.undescribed:,}"),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
