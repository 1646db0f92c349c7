# SPDX-License-Identifier: Apache-2.0
"""Guests in which containerd runs, with a module of the lab as the main program.

On the host `told_by` boots one. Inside, the module reports its progress line by line, as
tests.lab.guest does for tests.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from deploy.debian import Say
from tests.lab.core import SUITES
from tests.lab.image import Additions, build_disk, build_initramfs
from tests.lab.kernels import LabError, fetched
from tests.lab.machine import Machines
from tests.lab.results import Results, describe_failures
from tests.support.containerd import PACKAGES
from tests.support.incidents import MISHAP_IN_GUEST, mishap
from tests.support.wait import wait_for

SUITE = next(suite for suite in SUITES if suite.series == "6.1")
# Its pods get copies of these files.
CONTAINERD = Additions(
    packages=tuple(sorted(set(PACKAGES.values()))),
    contents=(("/etc/hosts", b"127.0.0.1 localhost\n"), ("/etc/resolv.conf", b"")),
)
# An emulated machine needs a minute where a machine needs a second, and proportionally more for
# several steps of several programs.
CALL_SECONDS = 120.0
WAIT_SECONDS = 600.0
TOLD_SECONDS = 20.0  # the interval of reports while waiting

T = TypeVar("T")


def told_by(
    module: str,
    say: Say,
    arguments: Sequence[str] = (),
    additions: Additions = CONTAINERD,
    seconds: float | None = None,
) -> Results:
    """The guest's results. LabError if the machine was lost or a stage failed."""
    kernel = fetched(SUITE, say)
    machines = Machines(seconds)
    additions += Additions(contents=((str(MISHAP_IN_GUEST), mishap()),))
    with tempfile.TemporaryDirectory(prefix="ktrace-lab-") as directory:
        scratch = Path(directory)
        say("building the disk of a guest with containerd")
        disk = build_disk(arguments, scratch, module=module, additions=additions)
        say(f"staging {module.rpartition('.')[2]} in a guest with {kernel.release}")
        initramfs = build_initramfs(kernel, scratch)
        try:
            results = machines.boot(SUITE.series, kernel, initramfs, disk, scratch)
        finally:
            machines.close()
    say(f"{results.release}: {results.in_words()}")
    if not results.good:
        raise LabError(describe_failures(results))
    return results


@contextmanager
def telling(port: str, names: Sequence[str]) -> Iterator[Stage]:
    """In the guest: reports the planned stages at the beginning, and the end. Failures outside a
    stage are reported, too, because the machine may be off before its console shows them."""
    with open(port, "wb") as file:
        stage = Stage(file)
        stage.tell("kernel", release=platform.release())
        stage.tell("collected", tests=list(names))
        try:
            yield stage
        except Exception:
            stage.broke()
            raise
        finally:
            stage.tell("end", code=0)


class Stage:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._step, self._since = "the beginning", time.monotonic()

    def begin(self, step: str) -> None:
        """Reports a step that may take long, because a silent machine counts as lost."""
        self._step, self._since = step, time.monotonic()
        self.tell("began", test=step)

    def run(self, name: str, act: Callable[[], Any], more: Callable[[], str] = str) -> None:
        """Reports the result of `act` as verdicts. A failure is reported with its traceback and the
        words of `more`."""
        self.begin(name)
        started, why = self._since, ""
        try:
            self.tell("said", incident=name, verdicts=act())
        except Exception:
            why = f"{traceback.format_exc()}\n{more()}"
        self._end(name, started, why)
        self._step = f"after {name}"

    def wait(self, what: str, look: Callable[[], T | None]) -> T:
        """Waits until it returns something true."""
        self.begin(f"waiting for {what}")

        def looked() -> T | None:
            if time.monotonic() > self._since + TOLD_SECONDS:
                self.begin(self._step)
            return look()

        return wait_for(what, looked, WAIT_SECONDS, 0.2)

    def broke(self) -> None:
        self._end(self._step, self._since, traceback.format_exc())

    def tell(self, kind: str, **facts: Any) -> None:
        self._file.write(json.dumps({"kind": kind, **facts}).encode() + b"\n")
        self._file.flush()

    def _end(self, what: str, since: float, why: str) -> None:
        facts = {"outcome": "failed" if why else "passed", "why": why, "again": ""}
        self.tell("ended", test=what, seconds=time.monotonic() - since, **facts)
