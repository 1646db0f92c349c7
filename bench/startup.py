# SPDX-License-Identifier: Apache-2.0
"""How long ktrace takes to start, attach and end, and what it holds: the bundle beside the wheel in
a virtual environment, taking turns, with their files in memory.

Reading them from the disk first is not compared: the environment shares its interpreter and
libraries with whatever else runs on the machine.

    python -m bench.startup
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.support import bundle

ROUNDS = 21
ASKED = ("signals", "--duration", "1ms", "-o", "json")
MOST = 1.05
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Start:
    seconds: float
    processor: float
    resident: int


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.startup needs root: it loads BPF programs")
    with TemporaryDirectory() as scratch:
        forms = {
            "venv": virtual_environment(Path(scratch, "venv")),
            "bundle": bundle.bundle() / "ktrace",
        }
        starts: dict[str, list[Start]] = {name: [] for name in forms}
        for number in range(1 + ROUNDS):
            for name, program in forms.items():
                one = start(program)
                if number:  # the first one reads the files
                    starts[name].append(one)
    for name, every in starts.items():
        tell(name, every)
    ratio = best(starts["bundle"]) / best(starts["venv"])
    slow = ratio > MOST
    print(f"bundle / venv: {ratio:.3f} of {MOST}: {'SLOW' if slow else 'ok'}")
    raise SystemExit(slow)


def virtual_environment(place: Path) -> Path:
    """With the interpreter of which the bundle has a copy. Returns the program."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", place], check=True)
    wheel = bundle.wheel(bundle.bundle())
    install = ["install", "-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([place / "bin" / "pip", *install, wheel], check=True)
    return place / "bin" / "ktrace"


def start(program: Path) -> Start:
    began = perf_counter()
    process = subprocess.Popen(
        [program, *ASKED], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    took = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench.startup: {program} ended with {process.returncode}")
    return Start(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def best(starts: Sequence[Start]) -> float:
    """What other programs delay, they delay more seldom than every time."""
    return min(one.seconds for one in starts)


def tell(name: str, starts: Sequence[Start]) -> None:
    median = statistics.median(one.seconds for one in starts)
    processor = min(one.processor for one in starts)
    resident = statistics.median(one.resident for one in starts)
    print(
        f"{name:6} {best(starts) * 1e3:.0f} ms at best, {median * 1e3:.0f} ms in the middle of"
        f" {len(starts)}; {processor * 1e3:.0f} ms of a processor; {resident / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
