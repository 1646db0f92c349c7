# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.stap`: the SystemTap backend beside the core one and a plain script, all in one
guest of the lab, whose kernel has both. Told are the median of the starts, with modules that are
built already, resident memory with what was started, and what a signal costs its sender more."""

from __future__ import annotations

import json
import re

from rich.console import Console
from rich.table import Table

from tests.lab.guests import SUITES
from tests.lab.lab import Lab
from tests.lab.results import describe_failures

SUITE = next(suite for suite in SUITES if suite.backend == "stap")


def main() -> None:
    console = Console()
    with Lab([SUITE], console.print, ("tests/stap/measure.py",)) as lab:
        results = lab.results(SUITE)
    if not results.good:
        raise SystemExit(describe_failures(results))
    found = re.findall(r"^bench: (\{.*\})\s*$", results.console, re.MULTILINE)
    table = Table(title=f"{results.release}, emulated: compare within the table only")
    for title in ("", "start, ms", "resident, MB", "per signal, ns"):
        table.add_column(title, justify="right" if title else "left")
    for line in found:
        told = json.loads(line)
        figures = (told["start_ms"], told["resident_mb"], told["event_ns"])
        table.add_row(told["name"], *(f"{figure:,.{int(figure < 10)}f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main()
