# SPDX-License-Identifier: Apache-2.0
"""The lab as a whole: prepares and runs guests, two at a time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from typing_extensions import Self

from deploy.debian import Say
from deploy.packages.build import HOME
from tests.lab import arm64
from tests.lab.image import Additions, build_disk, build_initramfs
from tests.lab.kernels import OWN, Suite
from tests.lab.machine import Machines
from tests.lab.makers import maker
from tests.lab.results import Results

AT_ONCE = 2
OWN_TESTS = ("tests/kernel",)


class Lab:
    """Inside its `with` block the guests run; `results` waits for one of them. `tests` are pytest's
    arguments; by default each backend has its own (tests.lab.makers), and if it is to be `brief`
    some suites, too."""

    def __init__(
        self,
        suites: Sequence[Suite],
        say: Say,
        tests: Sequence[str] = (),
        refresh: bool = False,
        brief: bool = False,
    ) -> None:
        self._brief = brief
        self._suites = suites
        self._say = say
        self._tests = tests
        self._refresh = refresh
        self._machines = Machines()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._scratch = tempfile.TemporaryDirectory(prefix="ktrace-lab-")
        self._running: dict[Suite, Future[Results]] = {}
        self._building = threading.Lock()
        self._disks: dict[tuple[Sequence[str], Sequence[str], Additions], Path] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def results(self, suite: Suite) -> Results:
        return self._running[suite].result()

    def own_results(self) -> Results:
        """The results of this machine's own kernel. Guests use part of its CPUs meanwhile."""
        return self._machines.run_here("own", self._tests or OWN_TESTS, Path(self._scratch.name))

    def _start(self) -> None:
        """Starts guests with more backends first, because they take longer, and one left alone at
        the end would leave processors idle."""
        for suite in sorted(self._suites, key=lambda suite: len(suite.backends), reverse=True):
            self._running[suite] = self._pool.submit(self._run, suite)

    def _run(self, suite: Suite) -> Results:
        """Fetching and making a guest's boot files may take minutes, while others run."""
        scratch = Path(self._scratch.name) / suite.label
        scratch.mkdir()
        kernel = maker(suite.backend).fetched(suite, self._say, self._refresh)
        form = arm64.FORM
        if suite.architecture == OWN:
            additions = Additions()
            for backend in suite.backends:
                additions += maker(backend).additions(suite, kernel, scratch, self._say)
            disk = self._disk(suite, additions)
            has_bundle = HOME in dict(additions.trees)
            form = "clone, bundle" if has_bundle else "clone"
            initramfs = build_initramfs(kernel, scratch)
        else:
            disk = arm64.build_disk(suite, self._tests_of(suite), scratch, self._say)
            initramfs = build_initramfs(kernel, scratch, arm64.busybox(suite, self._say))
        self._say(f"booting {kernel.release} for {suite.backend}")
        results = self._machines.boot(suite.label, kernel, initramfs, disk, scratch)
        results.backends = suite.backends
        results.architecture = suite.architecture
        results.form = form
        self._say(f"{suite.label}: {results.in_words()}")
        return results

    def _tests_of(self, suite: Suite) -> tuple[str, ...]:
        own = suite.brief if self._brief else ()
        return tuple(self._tests or own or maker(suite.backend).TESTS)

    def _disk(self, suite: Suite, additions: Additions) -> Path:
        """One disk for all guests with the same content."""
        tests = self._tests_of(suite)
        content = (suite.backends, tests, additions)
        with self._building:
            if content not in self._disks:
                self._say(f"building a disk for {suite.backend}")
                scratch = Path(self._scratch.name, f"disk-{len(self._disks)}")
                scratch.mkdir()
                self._disks[content] = build_disk(
                    tests, scratch, backends=suite.backends, additions=additions
                )
            return self._disks[content]

    def _end(self) -> None:
        self._machines.close()
        self._pool.shutdown(cancel_futures=True)
        self._scratch.cleanup()
