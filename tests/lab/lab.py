# SPDX-License-Identifier: Apache-2.0
"""The lab as a whole: guests are prepared and run, two at a time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import stap
from tests.lab.bcc import build_bcc_disk
from tests.lab.image import build_disk, build_initramfs
from tests.lab.kernels import Kernel, Say, Suite, fetched
from tests.lab.machine import Machines
from tests.lab.results import Results

AT_ONCE = 2
TESTS = ("tests/kernel",)
# What no kernel can change is tested here, and not once more by an emulated processor.
IN_GUESTS = ("-m", "not any_kernel")


class Lab:
    """Inside its `with` block the guests run; `results` waits for one of them."""

    def __init__(
        self,
        suites: Sequence[Suite],
        say: Say,
        tests: Sequence[str] = TESTS,
        refresh: bool = False,
    ) -> None:
        self._suites = suites
        self._say = say
        self._tests = tests
        self._refresh = refresh
        self._machines = Machines()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._scratch = tempfile.TemporaryDirectory(prefix="ktrace-lab-")
        self._running: dict[Suite, Future[Results]] = {}
        self._building = threading.Lock()
        self._built: Path | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def results(self, suite: Suite) -> Results:
        return self._running[suite].result()

    def own_results(self) -> Results:
        """Of this machine's own kernel, now. Guests take part of its CPUs meanwhile."""
        return self._machines.run_here("own", self._tests, Path(self._scratch.name))

    def _start(self) -> None:
        for suite in self._suites:
            self._running[suite] = self._pool.submit(self._run, suite)

    def _run(self, suite: Suite) -> Results:
        """What it boots may take minutes to fetch and to make, while others run."""
        scratch = Path(self._scratch.name) / suite.label
        scratch.mkdir()
        kernel, disk = self._prepare(suite, scratch)
        initramfs = build_initramfs(kernel, scratch)
        self._say(f"booting {kernel.release} for {suite.backend}")
        results = self._machines.boot(suite.label, kernel, initramfs, disk, scratch)
        self._say(f"{suite.label}: {results.in_words()}")
        return results

    def _prepare(self, suite: Suite, scratch: Path) -> tuple[Kernel, Path]:
        if suite.backend == "stap":
            tests = stap.TESTS if self._tests == TESTS else self._tests
            kernel = stap.fetched(suite, self._say, self._refresh)
            return kernel, stap.build_stap_disk(suite, kernel, tests, scratch, self._say)
        kernel = fetched(suite, self._say, self._refresh)
        if suite.backend == "bcc":
            tests = () if self._tests == TESTS else self._tests
            return kernel, build_bcc_disk({suite: kernel}, tests, scratch, self._say)
        return kernel, self._core_disk()

    def _core_disk(self) -> Path:
        """The same for all kernels."""
        with self._building:
            if self._built is None:
                self._say("building the guests' disk")
                scratch = Path(self._scratch.name)
                self._built = build_disk([*self._tests, *IN_GUESTS], scratch)
            return self._built

    def _end(self) -> None:
        self._machines.close()
        self._pool.shutdown(cancel_futures=True)
        self._scratch.cleanup()
