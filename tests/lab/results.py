# SPDX-License-Identifier: Apache-2.0
"""The results of a kernel's run: the lines of tests.lab.guest, turned into counts and words.

A lost machine is distinct from a failed test, and never a success.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.lab.kernels import OWN


@dataclass(frozen=True)
class Outcome:
    """`what` is passed, failed or cannot; `why` is empty for a passed test. `again` says why the
    first of two tries failed."""

    test: str
    what: str
    seconds: float
    why: str
    again: str = ""

    @property
    def probe(self) -> str:
        """The probe by the test's path: tests/kernel/test_oom.py is about oom, all of
        tests/kernel/signals about signals."""
        parts = PurePosixPath(self.test.partition("::")[0]).parts
        name = parts[2] if len(parts) > 2 else parts[-1]
        return name.removeprefix("test_").removesuffix(".py")


@dataclass(frozen=True)
class Attached:
    """`point` is None if the kernel accepted none; then `cannot` and `log` say why."""

    point: str | None
    cannot: str | None
    log: str | None


@dataclass
class Results:
    """One kernel's results. `lost` says how the machine was lost, if it was. `verdicts` are those
    on staged incidents, if any (tests.lab.pods). `backends` are those in the machine; the first is
    the one whose probes are reported. `form` is how ktrace was installed there."""

    label: str
    backends: Sequence[str] = ("core",)
    architecture: str = OWN
    form: str = "clone"
    release: str | None = None
    probes: dict[str, Attached] = field(default_factory=dict)
    collected: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    running: str | None = None
    ended: bool = False
    lost: str | None = None
    console: str = ""
    boots: int = 1
    boot_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def began(self) -> bool:
        return bool(self.running or self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.what == "failed"]

    @property
    def cannots(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.what == "cannot"]

    @property
    def repeated(self) -> list[Outcome]:
        """Tests that passed, but not at the first try."""
        return [outcome for outcome in self.outcomes if outcome.again and outcome.what == "passed"]

    @property
    def missing(self) -> list[str]:
        """Tests that were collected and never ended."""
        ended = {outcome.test for outcome in self.outcomes}
        return [test for test in self.collected if test not in ended]

    @property
    def good(self) -> bool:
        attached = all(attached.point for attached in self.probes.values())
        clean = not (self.lost or self.failures or self.missing)
        return bool(self.ended and self.outcomes and attached and clean)

    def counts(self, probe: str | None = None) -> Counter[str]:
        return Counter(o.what for o in self.outcomes if probe is None or o.probe == probe)

    def in_words(self) -> str:
        if self.lost:
            return self.lost
        counts = self.counts()
        found = [
            f"{counts[what]} {what}" for what in ("passed", "failed", "cannot") if counts[what]
        ]
        return f"{', '.join(found) or 'no tests'} in {self.seconds:.0f} s"

    def subjects(self) -> list[str]:
        """Probes, and the tests' other subjects."""
        return sorted({*self.probes, *(outcome.probe for outcome in self.outcomes)})

    def take(self, line: bytes) -> None:
        """Takes one line. An unknown line is a defect of the lab, not of a test: ValueError."""
        told: dict[str, Any] = json.loads(line)
        kind = told.pop("kind")
        if kind == "kernel":
            self.release = told["release"]
        elif kind == "probe":
            self.probes[told["name"]] = Attached(told["point"], told["cannot"], told["log"])
        elif kind == "collected":
            self.collected = told["tests"]
        elif kind == "began":
            self.running = told["test"]
        elif kind == "ended":
            self.running = None
            self.outcomes.append(
                Outcome(told["test"], told["outcome"], told["seconds"], told["why"], told["again"])
            )
        elif kind == "said":
            self.verdicts[told["incident"]] = told["verdicts"]
        elif kind == "end":
            self.ended = True
        else:
            raise ValueError(f"a line of unknown kind: {line!r}")

    def lose(self, how: str) -> None:
        """Records the loss, together with the progress so far."""
        if self.running:
            where = f"during {self.running}"
        elif self.outcomes:
            where = f"after {self.outcomes[-1].test}"
        else:
            where = "before its tests began"
        self.lost = f"the machine was lost {where}: {how}"


def in_brief(why: str) -> str:
    """pytest's first error line, else the last line."""
    lines = why.splitlines() or [""]
    return next((line for line in lines if line.startswith("E ")), lines[-1])


def describe_failures(results: Results) -> str:
    """Each failure, and the machine's last words if it was lost: enough for a reader without other
    sources."""
    return "\n\n".join(_failures(results))


def _failures(results: Results) -> Iterable[str]:
    if results.lost:
        yield f"{results.label}: {results.lost}"
        yield _last_words(results)
    for name, attached in results.probes.items():
        if attached.point is None:
            yield f"{results.label}: {name} does not attach: {attached.cannot}\n{attached.log}"
    for failure in results.failures:
        yield f"{results.label}: {failure.test} failed\n{failure.why}"
    if results.missing and not results.lost:
        yield f"{results.label}: never ran: {', '.join(results.missing)}"
    if results.ended and not results.outcomes:
        yield f"{results.label}: ran no tests"
        yield _last_words(results)


def _last_words(results: Results) -> str:
    return "its console ended with\n" + "\n".join(results.console.splitlines()[-40:])
