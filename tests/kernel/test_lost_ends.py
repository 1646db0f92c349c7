# SPDX-License-Identifier: Apache-2.0
"""Real cgroups whose ends are lost: the numbers in cgroupfs are the kernel side's, so those that
are left stay known, and those that are gone do not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ktrace import BACKEND
from tests.support.wait import wait_for
from tracer import probes
from tracer.kernel.hierarchies import hierarchies
from tracer.model.batch import Batch
from tracer.model.event import Clock
from tracer.model.selection import Selection
from tracer.session.run import Run, TraceRequest

TIMES = 23
JOIN = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))"


class Sink:
    def event(self, event: object) -> None: ...

    def flush(self) -> None: ...


class Losing:
    """A backend whose ring has no room for the ends of cgroups."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        (self._end,) = (k for k, schema in backend.schemas.items() if schema.name == "cgroup_end")
        self._lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def read(self, timeout: float) -> Batch | None:
        batch: Batch | None = self._backend.read(timeout)
        if batch is None:
            return None
        self._lost += sum(run.count for run in batch.runs if run.kind == self._end)
        return Batch(batch.data, [run for run in batch.runs if run.kind != self._end])

    def lost(self) -> dict[str, int]:
        return {**self._backend.lost(), "cgroup_end": self._lost}


@pytest.fixture
def cgroups() -> Iterator[list[Path]]:
    """Each has had a process, as every cgroup that is described."""
    mount = Path(hierarchies()[0].mount)
    made = [mount / f"ktrace-lost-end-{os.getpid()}-{number}" for number in range(TIMES)]
    for path in made:
        path.mkdir()
    yield made
    for path in made:
        if path.exists():
            path.rmdir()


def test_what_is_gone_is_missed(cgroups: list[Path]) -> None:
    request = TraceRequest(
        (probes.get("exits"),), Selection(everything=True), backend=BACKEND, argv=False
    )
    with Run(request, Sink(), Clock(), lambda words: None) as run:
        run.attach()
        source: Any = run._source
        source._backend = Losing(source._backend)
        resolver = run.session.resolver
        thread = threading.Thread(target=run.run)
        thread.start()
        try:
            for path in cgroups:
                procs = path / "cgroup.procs"
                subprocess.run([sys.executable, "-c", JOIN, procs], check=True)

            def known() -> set[str]:
                living = set(resolver.living())
                told = [place for place in resolver.places() if place.cgroup in living]
                return {Path(place.path).name for place in told if place.path}

            names = {path.name for path in cgroups}
            wait_for("all to be known", lambda: names <= known())
            for path in cgroups[1:]:
                path.rmdir()
            wait_for("the end of those that are gone", lambda: names & known() == {cgroups[0].name})
        finally:
            run.stop()
            thread.join(60)
