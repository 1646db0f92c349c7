# SPDX-License-Identifier: Apache-2.0
"""How long ktrace takes to start, attach and end: the bundle beside the wheel in a virtual
environment, taking turns. Cold is with none of its files in memory.

    python -m bench.startup
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
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


@dataclass
class Form:
    """A way of installing ktrace; `roots` are the directories with its files."""

    name: str
    program: Path
    roots: Sequence[Path]

    def files(self) -> list[Path]:
        every = (path for root in self.roots for path in root.rglob("*"))
        return [path for path in every if path.is_file()]


@dataclass(frozen=True)
class Start:
    seconds: float
    processor: float
    resident: int


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.startup needs root: it loads BPF programs")
    with TemporaryDirectory() as scratch:
        forms = [virtual_environment(Path(scratch, "venv")), shipped()]
        slow = [tell(forms, cold) for cold in (False, True)]
    raise SystemExit(any(slow))


def shipped() -> Form:
    root = bundle.bundle()
    return Form("bundle", root / "ktrace", [root])


def virtual_environment(place: Path) -> Form:
    """With the interpreter of which the bundle has a copy."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", place], check=True)
    wheel = bundle.wheel(bundle.bundle())
    install = ["install", "-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([place / "bin" / "pip", *install, wheel], check=True)
    library = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return Form("venv", place / "bin" / "ktrace", [place, Path("/usr/lib", library)])


def tell(forms: Sequence[Form], cold: bool) -> bool:
    """Whether the last form is slower than it may be."""
    for form in forms:
        start(form)
    rounds = [[start(form, cold) for form in forms] for _ in range(ROUNDS)]
    first, last = ([each[number] for each in rounds] for number in (0, -1))
    print(f"{'cold' if cold else 'warm'}, {ROUNDS} starts each")
    for form, starts in zip(forms, (first, last), strict=True):
        seconds = [one.seconds for one in starts]
        print(
            f"  {form.name:8} {statistics.median(seconds) * 1e3:6.0f} ms, at best"
            f" {min(seconds) * 1e3:.0f} ms; processor"
            f" {statistics.median(one.processor for one in starts) * 1e3:.0f} ms, at best"
            f" {min(one.processor for one in starts) * 1e3:.0f} ms; resident"
            f" {statistics.median(one.resident for one in starts) / 1e6:.1f} MB"
        )
    ratio = min(one.seconds for one in last) / min(one.seconds for one in first)
    print(f"  {forms[-1].name} / {forms[0].name}: {ratio:.3f}, {word(ratio)}")
    return ratio > MOST


def word(ratio: float) -> str:
    return "ok" if ratio <= MOST else f"SLOW: more than {MOST}"


def start(form: Form, cold: bool = False) -> Start:
    if cold:
        forget(form.files())
    began = perf_counter()
    process = subprocess.Popen([form.program, *ASKED], stdout=subprocess.DEVNULL, stderr=-3)
    _, status, usage = os.wait4(process.pid, 0)
    took = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench.startup: {form.program} ended with {process.returncode}")
    return Start(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def forget(files: Sequence[Path]) -> None:
    """The kernel keeps the pages that another process has mapped: of both forms alike, since both
    have their own copies of everything but the interpreter."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
