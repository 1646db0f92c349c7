# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel tests on the running kernel and reports the progress line by line.

    python -m tests.lab.guest PORT [pytest argument …]

In a guest PORT is its serial port to the host, else the number of a descriptor. Each line is a JSON
object (tests.lab.results reads them), written as soon as it is known, so a lost machine has
reported its progress.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import pytest

from tests.lab.makers import maker
from tests.support.ktrace import IN_GUEST

# The words by which a test says that the kernel lacks a declared requirement of the probe.
CANNOT = "cannot:"
TESTS = "tests/kernel"
# The backend that this guest is for.
BACKEND = os.environ.get("KTRACE_LAB_BACKEND", "core")
# An emulated machine is slow, so a test that depends on seconds is retried, and the retry is
# reported.
AGAIN = ("--reruns", "1")


def main(port: str, arguments: Sequence[str]) -> int:
    with open(int(port) if port.isdigit() else port, "wb", buffering=0) as file:
        reporter = Reporter(file)
        reporter.tell("kernel", release=platform.release())
        for name, attached in maker(BACKEND).attach():
            reporter.tell("probe", name=name, **asdict(attached))
        options = ["-p", "no:cacheprovider", "--color=no", "--tb=short", "--rootdir", os.getcwd()]
        if IN_GUEST:
            options += AGAIN
        code = int(pytest.main([*options, *(arguments or [TESTS])], plugins=[reporter]))
        reporter.tell("end", code=code)
    return code


class Reporter:
    """A plugin for pytest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._phases: list[pytest.TestReport] = []
        self._again = ""
        self._repeats = False

    def tell(self, kind: str, **facts: Any) -> None:
        line = memoryview(json.dumps({"kind": kind, **facts}).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell_end(report.nodeid, "failed", 0.0, report.longreprtext)
        elif report.skipped:
            outcome, why = judge_skip(_reason(report))
            self._tell_end(report.nodeid, outcome, 0.0, why)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tell("collected", tests=[item.nodeid for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._phases, self._repeats = [], False
        self.tell("began", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if str(report.outcome) == "rerun":
            self._repeats, self._again = True, _words(report)
        else:
            self._phases.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if self._repeats:
            return
        seconds = sum(phase.duration for phase in self._phases)
        failed = [phase for phase in self._phases if phase.failed]
        skipped = [phase for phase in self._phases if phase.skipped]
        if failed:
            self._tell_end(nodeid, "failed", seconds, "\n".join(map(_words, failed)))
        elif skipped:
            outcome, why = judge_skip(_reason(skipped[0]))
            self._tell_end(nodeid, outcome, seconds, why)
        else:
            self._tell_end(nodeid, "passed", seconds, "")

    def _tell_end(self, test: str, outcome: str, seconds: float, why: str) -> None:
        told = {"outcome": outcome, "seconds": round(seconds, 3), "why": why, "again": self._again}
        self.tell("ended", test=test, **told)
        self._again = ""
        self._repeats = False


def judge_skip(reason: str) -> tuple[str, str]:
    """A skip fails unless it says what this kernel lacks."""
    if reason.startswith(CANNOT):
        return "cannot", reason.removeprefix(CANNOT).strip()
    return "failed", f"skipped, and not because of this kernel: {reason}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The words of a skip, which pytest keeps as file, line and words."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext


def _words(report: pytest.TestReport) -> str:
    sections = [f"--- {title}\n{text}" for title, text in report.sections]
    return "\n".join([report.longreprtext, *sections])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
