# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.signals`: ktrace signals beside bpftrace and sigsnoop, in one table.

Absolute times say little on a shared machine. So all tracers are measured in turns, round after
round, and every storm has an untraced one just before it. Reported are the median and, in brackets,
the extremes. The cost of a signal is its sender's CPU time. A missing peer is installed. Figures of
a loaded machine are marked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import peers
from bench.decoding import Recorded, events_a_second
from bench.quiet import Watch
from bench.tracers import (
    BPFTRACE,
    CPUS,
    KTRACE,
    KTRACE_PID,
    KTRACE_PODS,
    KTRACE_SIGNAL,
    KTRACE_TABLE,
    SIGSNOOP,
    Running,
    Tracer,
    mount_tracefs,
    on_cpus,
    pinging,
    seconds_to_first_event,
)

SIGNALS = 300_000
# The most rounds, at least one; and the time after which no new round begins.
STORM_ROUNDS = 5
STORM_SECONDS = 30.0
# Small differences need a quiet machine: the least of this many storms counts.
REPEATS = 3
START_ROUNDS = 7
START_SECONDS = 12.0
DECODE_ROUNDS = 5

Figures = defaultdict[str, list[float]]


@dataclass
class Results:
    """Figures by tracer's name, one per round."""

    plain: list[float] = field(default_factory=list)
    added: Figures = field(default_factory=lambda: defaultdict(list))
    captured: Figures = field(default_factory=lambda: defaultdict(list))
    lost: Figures = field(default_factory=lambda: defaultdict(list))
    unaccounted: list[float] = field(default_factory=list)
    added_no_pod: list[float] = field(default_factory=list)
    added_other_pid: list[float] = field(default_factory=list)
    added_other_signal: list[float] = field(default_factory=list)
    start: Figures = field(default_factory=lambda: defaultdict(list))
    start_table: list[float] = field(default_factory=list)
    idle: Figures = field(default_factory=lambda: defaultdict(list))
    after: Figures = field(default_factory=lambda: defaultdict(list))
    peak: Figures = field(default_factory=lambda: defaultdict(list))
    decoded: list[float] = field(default_factory=list)


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.signals needs root")
    peers.install("bpftrace", "sigsnoop")
    mount_tracefs()
    watch = Watch(anyway=True)
    watch.look()
    # An installed ktrace has compiled modules; in a clone the first run has to make them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as folder:
        storm = compile_storm(Path(folder))
        for _ in rounds("storms", STORM_ROUNDS, STORM_SECONDS):
            for tracer in (BPFTRACE, SIGSNOOP, KTRACE):
                measure_storm(tracer, storm, results)
            results.added_no_pod.append(measure_rejected(KTRACE_PODS, storm))
            results.added_other_pid.append(measure_rejected(KTRACE_PID, storm))
            results.added_other_signal.append(measure_rejected(KTRACE_SIGNAL, storm))
        with pinging(storm):
            for _ in rounds("cold starts", START_ROUNDS, START_SECONDS):
                for tracer in (BPFTRACE, SIGSNOOP, KTRACE):
                    results.start[tracer.name].append(1e3 * seconds_to_first_event(tracer))
                results.start_table.append(1e3 * seconds_to_first_event(KTRACE_TABLE))
        recorded = Recorded(storm)
        for _ in rounds("from ring to JSON", DECODE_ROUNDS, 10.0):
            results.decoded.append(events_a_second(recorded) / 1e3)
    watch.look()
    show(results, watch.words)


def compile_storm(folder: Path) -> Path:
    program = folder / "storm"
    source = Path(__file__).with_name("storm.c")
    subprocess.run(["clang", "-O2", "-Wall", "-o", program, source], check=True)
    return program


def measure_storm(tracer: Tracer, storm: Path, results: Results) -> None:
    plain, _ = run_storm(storm)
    running = Running(tracer, storm.parent, storm)
    results.idle[tracer.name].append(running.memory().now)
    traced, target = run_storm(storm)
    running.settle()
    memory = running.memory()
    running.stop()
    captured = running.captured(target)
    results.plain.append(plain)
    results.added[tracer.name].append(traced - plain)
    results.after[tracer.name].append(memory.now)
    results.peak[tracer.name].append(memory.peak)
    results.captured[tracer.name].append(captured)
    results.lost[tracer.name].append(SIGNALS - captured)
    if tracer is KTRACE:
        results.unaccounted.append(SIGNALS - captured - running.counted_lost())


def measure_rejected(tracer: Tracer, storm: Path) -> float:
    """The nanoseconds that a tracer adds to a signal it does not select."""
    plain = min(run_storm(storm)[0] for _ in range(REPEATS))
    running = Running(tracer, storm.parent, storm)
    storms = [run_storm(storm) for _ in range(REPEATS)]
    running.stop()
    if any(running.captured(target) for _, target in storms):
        raise SystemExit(f"{' '.join(tracer.command)} showed a signal that it was not to show")
    return min(nanoseconds for nanoseconds, _ in storms) - plain


def run_storm(storm: Path) -> tuple[float, int]:
    """Nanoseconds per call, and the target's pid."""
    with on_cpus(CPUS[:1]):
        done = subprocess.run([storm, str(SIGNALS)], stdout=subprocess.PIPE, check=True)
    nanoseconds, target = done.stdout.split()
    return float(nanoseconds), int(target)


def rounds(what: str, most: int, seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    for number in range(most):
        if number and time.monotonic() > end:
            return
        print(f"bench: {what}, round {number + 1}", file=sys.stderr)
        yield number


def show(results: Results, where: str) -> None:
    table = Table(title=f"{SIGNALS:,} signals a storm; {where}", title_justify="left")
    for title in ("", "bpftrace", "sigsnoop", "ktrace", "ratio", "aim", ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=not title)
    for row in rows(results):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 190).print(table)


def rows(results: Results) -> list[tuple[str, ...]]:
    def compared(title: str, of: Figures, form: str) -> tuple[str, str, str, str]:
        bpftrace, sigsnoop, ktrace = (
            spread(of[tracer.name], form) for tracer in (BPFTRACE, SIGSNOOP, KTRACE)
        )
        return title, bpftrace, sigsnoop, ktrace

    def ktrace_only(title: str, of: list[float], form: str) -> tuple[str, str, str, str]:
        return title, "", "", spread(of, form)

    added = {name: median(of) for name, of in results.added.items()}
    start = {name: median(of) for name, of in results.start.items()}
    start_table = median(results.start_table)
    lost = max(results.lost["ktrace"])
    unaccounted = max(map(abs, results.unaccounted))
    to_sigsnoop = added["ktrace"] / added["sigsnoop"]
    to_bpftrace = start["ktrace"] / start["bpftrace"]
    table_to_bpftrace = start_table / start["bpftrace"]
    memory = max(median(of["ktrace"]) for of in (results.idle, results.after, results.peak))
    return [
        (
            *("a kill(2) without tracing, ns", "", "", spread(results.plain, "{:.0f}")),
            *("", "", ""),
        ),
        (
            *compared("added by tracing it, ns", results.added, "{:+.0f}"),
            f"{to_sigsnoop:.2f} × sigsnoop",
            "≤ 1 × sigsnoop",
            at_most(to_sigsnoop, 1, "{:.2f} ×"),
        ),
        (*compared("captured", results.captured, "{:,.0f}"), "", "", ""),
        (
            *compared("lost", results.lost, "{:,.0f}"),
            f"{100 * lost / SIGNALS:.1f} %",
            "0",
            at_most(lost, 0, "{:,.0f}"),
        ),
        (
            *ktrace_only("neither captured nor counted as lost", results.unaccounted, "{:,.0f}"),
            *("", "0", at_most(unaccounted, 0, "{:,.0f}")),
        ),
        *(
            (
                *ktrace_only(f"added where it is rejected ({why}), ns", of, "{:+.0f}"),
                f"{median(of) / added['bpftrace']:.2f} × bpftrace",
                "≤ 100",
                at_most(median(of), 100, "{:.0f}"),
            )
            for why, of in (
                ("in no pod", results.added_no_pod),
                ("another pid", results.added_other_pid),
                ("another signal", results.added_other_signal),
            )
        ),
        (
            *compared("cold start to first event, ms", results.start, "{:.0f}"),
            f"{to_bpftrace:.2f} × bpftrace",
            "≤ 1.5 × bpftrace",
            at_most(to_bpftrace, 1.5, "{:.2f} ×"),
        ),
        (
            *ktrace_only("  the same as a table, ms", results.start_table, "{:.0f}"),
            f"{table_to_bpftrace:.2f} × bpftrace",
            "≤ 1.5 × bpftrace",
            at_most(table_to_bpftrace, 1.5, "{:.2f} ×"),
        ),
        (*compared("resident when idle, MB", results.idle, "{:.0f}"), "", "", ""),
        (*compared("resident after the storm, MB", results.after, "{:.0f}"), "", "", ""),
        (
            *compared("resident at most, MB", results.peak, "{:.0f}"),
            f"{memory / median(results.peak['bpftrace']):.2f} × bpftrace",
            "≤ 60",
            at_most(memory, 60, "{:.0f}"),
        ),
        (
            *ktrace_only("from ring to JSON, thousand events/s", results.decoded, "{:.0f}"),
            *("", "≥ 200", at_least(median(results.decoded), 200, "{:.0f}")),
        ),
    ]


def spread(figures: list[float], form: str) -> str:
    """Median (least-most)."""
    told = form.format(median(figures))
    least, most = form.format(min(figures)), form.format(max(figures))
    return told if least == most else f"{told} ({least} … {most})"


def at_most(figure: float, aim: float, form: str) -> str:
    return verdict(figure <= aim, figure - aim, form, "too much")


def at_least(figure: float, aim: float, form: str) -> str:
    return verdict(figure >= aim, aim - figure, form, "too few")


def verdict(met: bool, missing: float, form: str, word: str) -> str:
    return "met" if met else f"{form.format(missing)} {word}"


if __name__ == "__main__":
    main()
