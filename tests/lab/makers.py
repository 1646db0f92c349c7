# SPDX-License-Identifier: Apache-2.0
"""What the lab does differently for one backend: a module of that backend's name in this folder,
with all that `Maker` has, and there is no other place that knows one of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from tests.lab.image import Additions
from tests.lab.kernels import Kernel, Suite
from tests.lab.results import Attached
from tests.support.packages import Say
from tracer import backends, probes
from tracer.model.errors import KtraceError


class Maker(Protocol):
    """`SUITES` are the guests for this backend, and `TESTS` pytest's arguments for what they run if
    nothing else is asked for. `PROBES` are those that the backend has programs for."""

    SUITES: Sequence[Suite]
    TESTS: Sequence[str]
    PROBES: Sequence[str]

    def fetched(self, suite: Suite, say: Say, refresh: bool = False) -> Kernel:
        """The kernel of one of these guests."""

    def additions(self, suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
        """What any guest with this kernel needs for the backend to work there."""

    def attach(self) -> Iterable[tuple[str, Attached]]:
        """In a guest: attaches every probe for real, and tells by name how that went."""


def maker(backend: str) -> Maker:
    return cast(Maker, importlib.import_module(f"{__package__}.{backend}"))


def attach_together(backend: str, names: Sequence[str]) -> Iterator[tuple[str, Attached]]:
    """With a backend that takes long to attach anything."""
    wanted = [probes.get(name) for name in names]
    try:
        taken = backends.choose(backend, wanted)
        taken.attach(wanted, {})
    except KtraceError as error:
        yield from ((name, Attached(None, error.message, None)) for name in names)
        return
    points = {name: point.name for name, point in taken.attached.items()}
    taken.close()
    yield from ((name, Attached(points[name], None, None)) for name in names)
