# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.costs`: the cost of the probes for a healthy machine, and the resources of all
of them.

Each load runs without and with its probes, in turns. Its CPU time is compared within a round,
because nothing else about a shared machine stays the same. Reported are the median and the
extremes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.signals import Figures, at_most, rounds, spread
from bench.tracers import CPUS, KTRACE, Running, Tracer, on_cpus
from tracer import probes

ALL = ",".join(probes.names())
ROUNDS = 9
SECONDS = 60.0
# The least of this many runs counts, because disturbances only make a load slower.
REPEATS = 3
REFUSED = 100_000


@dataclass(frozen=True)
class Load:
    """`name` and `count` are the arguments of load.c."""

    title: str
    name: str
    count: int
    probes: str


LOADS = (
    Load("a page fault, ns", "faults", 200_000, "pagealloc"),
    Load("a connection, ns", "connections", 10_000, "resets,backlog"),
    Load("64 KiB through a connection, ns", "transfers", 20_000, "resets,backlog"),
)

# in an interpreter of its own, for a cold start
ATTACH = """
import time
from tracer import probes
from tracer.backends.core import CoreBackend
everything = [probes.get(name) for name in probes.names()]
backend = CoreBackend()
begin = time.monotonic()
backend.attach(everything, {})
print(1e3 * (time.monotonic() - begin))
backend.close()
"""


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.costs needs root")
    plain: Figures = defaultdict(list)
    added: Figures = defaultdict(list)
    attach: list[float] = []
    resident: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as name:
        folder = Path(name)
        program = compile_load(folder)
        for _ in rounds("costs", ROUNDS, SECONDS):
            for load in LOADS:
                without = run(program, load)
                running = Running(tracing(load.probes), folder, program)
                traced = run(program, load)
                running.stop()
                plain[load.title].append(without)
                added[load.title].append(100 * (traced / without - 1))
            attach.append(float(output([sys.executable, "-c", ATTACH])))
            resident.append(memory(folder, program))
        unaccounted = refused(folder, program)
    table = Table(title="a healthy machine", title_justify="left")
    for title in ("", "without", "added", "aim", ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=not title)
    for load in LOADS:
        figures = added[load.title]
        table.add_row(
            f"{load.title} ({load.probes})",
            spread(plain[load.title], "{:,.0f}"),
            spread(figures, "{:+.1f} %"),
            "≤ 2 %",
            at_most(median(figures), 2, "{:.1f} %"),
        )
    rest = (
        ("attaching all probes, ms", spread(attach, "{:.0f}"), "≤ 300", median(attach), 300),
        ("resident with all, MB", spread(resident, "{:.0f}"), "≤ 80", max(resident), 80),
        (
            f"resets of {REFUSED:,} refused connections neither told nor counted as lost",
            f"{unaccounted:,}",
            "0",
            abs(unaccounted),
            0,
        ),
    )
    for title, told, aim, figure, limit in rest:
        table.add_row(title, "", told, aim, at_most(figure, limit, "{:,.0f}"))
    Console(width=None if sys.stdout.isatty() else 190).print(table)


def compile_load(folder: Path) -> Path:
    program = folder / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["clang", "-O2", "-Wall", "-o", program, source], check=True)
    return program


def tracing(names: str) -> Tracer:
    command = (KTRACE.command[0], "trace", names, "--all", "-o", "json")
    return Tracer("ktrace", command, "")


def run(program: Path, load: Load) -> float:
    with on_cpus(CPUS[:1]):
        return min(float(output([program, load.name, str(load.count)])) for _ in range(REPEATS))


def output(command: list[str | Path]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def memory(folder: Path, program: Path) -> float:
    running = Running(tracing(ALL), folder, program)
    peak = running.memory().peak
    running.stop()
    return peak


def refused(folder: Path, program: Path) -> int:
    """Both ends are here: each refused connection is one reset sent and one received."""
    running = Running(tracing("resets"), folder, program)
    output([program, "refused", str(REFUSED)])
    running.settle()
    running.stop()
    lines = (folder / "output").read_bytes().splitlines()
    told = sum(line.startswith(b'{"kind":"tcp_reset"') for line in lines)
    return 2 * REFUSED - told - running.counted_lost()


if __name__ == "__main__":
    main()
