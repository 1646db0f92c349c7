# SPDX-License-Identifier: Apache-2.0
"""Whether a machine is quiet enough to be measured on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

# Of all processors together, what others may use in a second.
QUIET = 0.1
PATIENCE = 60.0


class Loaded(SystemExit):
    """Others use the machine. Figures of it would say nothing."""


def busy(seconds: float = 1.0) -> float:
    """The share of all processors that is in use; call it while nothing is measured."""
    before = _times()
    time.sleep(seconds)
    idle, total = (now - then for now, then in zip(_times(), before, strict=True))
    return 1 - idle / total if total else 0.0


@dataclass
class Watch:
    """Looks before each round. A loaded machine is waited for; after `PATIENCE` seconds it is
    refused, or with `anyway` marked: `words` says how much others used."""

    anyway: bool = False
    looks: list[float] = field(default_factory=list)

    def look(self) -> None:
        end = time.monotonic() + (0.0 if self.anyway else PATIENCE)
        while (used := busy()) > QUIET and time.monotonic() < end:
            pass
        self.looks.append(used)
        if used > QUIET and not self.anyway:
            raise Loaded(
                f"others use {used:.0%} of the processors: measure when they are idle,"
                " or with --loaded, and the figures are marked"
            )

    @property
    def words(self) -> str:
        used = max(self.looks, default=0.0)
        if used > QUIET:
            return f"LOADED: others used up to {used:.0%} of the processors"
        return f"quiet: others used at most {used:.0%} of the processors"


def _times() -> tuple[int, int]:
    """Idle and all, in ticks (proc_stat(5)). What a guest did not get is not idle."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)
