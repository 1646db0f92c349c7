# SPDX-License-Identifier: Apache-2.0
"""The lab as a whole: kernels fetched, one disk built, guests run, two at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
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
        by_bpf = [suite for suite in self._suites if suite.backend != "stap"]
        kernels = {suite: fetched(suite, self._say, self._refresh) for suite in by_bpf}
        scratch = Path(self._scratch.name)
        initramfs = {k: build_initramfs(k, scratch) for k in set(kernels.values())}
        for backend in dict.fromkeys(suite.backend for suite in by_bpf):
            self._say(f"building the disk of the guests for {backend}")
            mine = {suite: k for suite, k in kernels.items() if suite.backend == backend}
            disk = self._disk(backend, mine, scratch)
            for suite, kernel in mine.items():
                boot = (suite, kernel, initramfs[kernel], disk)
                self._running[suite] = self._pool.submit(self._boot, *boot)
        for suite in self._suites:
            if suite.backend == "stap":
                self._running[suite] = self._pool.submit(self._boot_for_stap, suite)

    def _boot_for_stap(self, suite: Suite) -> Results:
        """What it boots may take minutes to make, while the others run."""
        scratch = Path(self._scratch.name)
        tests = stap.TESTS if self._tests == TESTS else self._tests
        kernel = stap.fetched(suite, self._say, self._refresh)
        disk = stap.build_stap_disk(suite, kernel, tests, scratch / suite.label, self._say)
        return self._boot(suite, kernel, build_initramfs(kernel, scratch / suite.label), disk)

    def _disk(self, backend: str, kernels: Mapping[Suite, Kernel], scratch: Path) -> Path:
        if backend == "core":
            return build_disk([*self._tests, *IN_GUESTS], scratch)
        tests = self._tests if self._tests != TESTS else ()
        return build_bcc_disk(kernels, tests, scratch, self._say)

    def _boot(self, suite: Suite, kernel: Kernel, initramfs: Path, disk: Path) -> Results:
        self._say(f"booting {kernel.release}")
        results = self._machines.boot(
            suite.label, kernel, initramfs, disk, Path(self._scratch.name)
        )
        self._say(f"{kernel.release}: {results.in_words()}")
        return results

    def _end(self) -> None:
        self._machines.close()
        self._pool.shutdown(cancel_futures=True)
        self._scratch.cleanup()
