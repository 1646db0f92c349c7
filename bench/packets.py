# SPDX-License-Identifier: Apache-2.0
"""What `drops` and `connects` cost a packet and a connection, beside bpftrace and dropwatch, which
also hang at the drop of each packet; and what a storm of drops with varying ports becomes.

    python -m bench.packets

Each load runs without and with each tracer, in turns. The CPU time of the sender counts, which a
local packet takes with it up to its receiver. bcc's tcpdrop and tcpconnlat need kprobes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from statistics import median

import orjson
from rich.console import Console
from rich.table import Table

from bench import peers
from bench.costs import Load, compile_load, run, tracing
from bench.signals import Figures, at_most, rounds, spread
from bench.tracers import CPUS, PATIENCE, Running, mount_tracefs, on_cpus
from tests.support.losses import Losses

ROUNDS = 9
SECONDS = 120.0
STORM = 1_000_000
STORM_SECONDS = 10.0
RECORDS_A_SECOND = 20

PLAIN = Load("a packet that arrives", "packets", 100_000, "drops")
REJECTED = Load("one dropped for no loss", "filtered", 100_000, "drops")
REPORTED = Load("one dropped and reported", "dropped", 100_000, "drops")
CONNECTION = Load("a connection", "connections", 10_000, "connects")
# In nanoseconds; a packet that is not dropped meets no program, and what is measured is noise.
AIMS = {PLAIN.title: 20.0, REJECTED.title: 60.0, REPORTED.title: 500.0}
MOST_PERCENT = 1.0

_COUNT = "tracepoint:skb:kfree_skb { @[args->reason, args->location] = count(); }"
_READY = 'interval:ms:100 { printf("ready\\n"); }'
BPFTRACE = ("bpftrace", "-e", f"{_READY} {_COUNT}")
DROPWATCH = ("dropwatch", "-l", "kas")


def main() -> int:
    if os.geteuid():
        raise SystemExit("bench.packets needs root")
    peers.install("bpftrace", "dropwatch")
    mount_tracefs()
    plain: Figures = defaultdict(list)
    added: dict[str, Figures] = {name: defaultdict(list) for name in TRACERS}
    percent: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as name:
        folder = Path(name)
        program = compile_load(folder)
        for _ in rounds("packets", ROUNDS, SECONDS):
            for load in (PLAIN, REJECTED, REPORTED):
                without = run(program, load)
                plain[load.title].append(without)
                for tracer, watch in TRACERS.items():
                    with watch(folder, program) as works:
                        if works:
                            added[tracer][load.title].append(run(program, load) - without)
            without = run(program, CONNECTION)
            running = Running(tracing("connects"), folder, program)
            traced = run(program, CONNECTION)
            running.stop()
            plain[CONNECTION.title].append(without)
            percent.append(100 * (traced / without - 1))
        missed = show(plain, added, percent)
        return missed | storm(folder, program)


@contextmanager
def ktrace(folder: Path, program: Path) -> Iterator[bool]:
    running = Running(tracing("drops"), folder, program)
    yield True
    running.stop()


@contextmanager
def peer(command: tuple[str, ...], orders: bytes, ready: bytes) -> Iterator[bool]:
    """False where it does not run: the kernel may lack what it needs."""
    with tempfile.TemporaryFile() as output, on_cpus(CPUS[1:] or CPUS):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        assert process.stdin
        with suppress(BrokenPipeError):
            process.stdin.write(orders)
            process.stdin.flush()
        end = time.monotonic() + PATIENCE
        works = False
        while not works and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
            works = ready in os.pread(output.fileno(), 1 << 20, 0)
        yield works
        process.kill()
        process.wait(PATIENCE)


TRACERS: dict[str, Callable[[Path, Path], AbstractContextManager[bool]]] = {
    "ktrace": ktrace,
    "bpftrace": lambda _folder, _program: peer(BPFTRACE, b"", b"ready"),
    "dropwatch": lambda _folder, _program: peer(DROPWATCH, b"start\n", b"activated"),
}


def show(plain: Figures, added: dict[str, Figures], percent: list[float]) -> bool:
    table = Table(title="packets and connects", title_justify="left")
    for title in ("", "without", *(f"{name} adds" for name in added), "aim of ktrace", ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=not title)
    for title, aim in AIMS.items():
        cells = [
            spread(figures[title], "{:+.0f} ns") if figures[title] else "does not run"
            for figures in added.values()
        ]
        own = median(added["ktrace"][title])
        told = at_most(own, aim, "{:.0f} ns")
        table.add_row(title, spread(plain[title], "{:,.0f} ns"), *cells, f"≤ {aim:.0f} ns", told)
    most = at_most(median(percent), MOST_PERCENT, "{:.1f} %")
    without = spread(plain[CONNECTION.title], "{:,.0f} ns")
    others = ["–"] * (len(added) - 1)
    own_percent = spread(percent, "{:+.1f} %")
    table.add_row(CONNECTION.title, without, own_percent, *others, f"≤ {MOST_PERCENT:.0f} %", most)
    Console(width=None if sys.stdout.isatty() else 190).print(table)
    over = any(median(added["ktrace"][title]) > aim for title, aim in AIMS.items())
    return over or median(percent) > MOST_PERCENT


def storm(folder: Path, program: Path) -> bool:
    """Drops of one reason and namespace, each for another port."""
    running = Running(tracing("drops"), folder, program)
    with Losses() as losses:
        before, began = running.memory().now, time.monotonic()
        losses.do("storm", STORM)
        took = time.monotonic() - began
        running.settle()
        peak = running.memory().peak
        running.stop()
        lines = (folder / "output").read_bytes().splitlines()
        events = [orjson.loads(line) for line in lines if line.startswith(b'{"kind":"packet_drop"')]
        mine = [event for event in events if event["netns"] == losses.netns]
    counted = sum(event["count"] for event in mine)
    rate = len(mine) / (took + 1)
    print(
        f"a storm of {STORM:,} drops with varying ports in {took:.1f} s: {STORM - counted:,} of"
        f" them not counted, {len(mine)} records ({rate:.1f} a second, at most {RECORDS_A_SECOND}),"
        f" resident {before:.0f} MB before and {peak:.0f} at most"
    )
    return counted != STORM or rate > RECORDS_A_SECOND


if __name__ == "__main__":
    sys.exit(main())
