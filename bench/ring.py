# SPDX-License-Identifier: Apache-2.0
"""What it costs to take records out of the kernel's ring in both ways, on the same records: mapped,
and by libbpf's callback as on machines other than x86.

    python -m bench.ring
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from bench.signals import compile_storm
from tracer import probes
from tracer.backends.core import CoreBackend

EVENTS = 100_000  # fits into the ring
ROUNDS = 5
WAYS = {"mapped": "x86_64", "by callback": "aarch64"}


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.ring needs root: it loads BPF programs")
    with TemporaryDirectory() as scratch:
        storm = compile_storm(Path(scratch))
        rounds = [{way: seconds_an_event(storm, WAYS[way]) for way in WAYS} for _ in range(ROUNDS)]
    for way in WAYS:
        middle = statistics.median(one[way] for one in rounds)
        print(f"{way:11} {middle * 1e6:.2f} µs an event, {1 / middle:,.0f} events/s on one core")


def seconds_an_event(storm: Path, machine: str) -> float:
    """Time taken by other processes does not count."""
    with patch.object(platform, "machine", lambda: machine):
        backend = CoreBackend()
        try:
            backend.attach([probes.get("signals")], {"kt_signal_mask": 1 << 10 - 1})
            subprocess.run([storm, str(EVENTS)], stdout=subprocess.DEVNULL, check=True)
            backend.detach()
            begin, records = time.process_time(), 0
            while batch := backend.read(0):
                records += sum(run.count for run in batch.runs)
            took = time.process_time() - begin
            lost = backend.lost()
        finally:
            backend.close()
    if lost or records < EVENTS:
        raise SystemExit(f"bench.ring: {records} records of {EVENTS}, lost: {lost}")
    return took / records


if __name__ == "__main__":
    main()
