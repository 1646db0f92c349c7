# SPDX-License-Identifier: Apache-2.0
"""The lab's backend-specific parts: one module in this folder, named like the backend, with
everything in `Maker`. No other code knows single backends."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from deploy.debian import Say
from tests.lab.image import Additions
from tests.lab.kernels import Kernel, Suite
from tests.lab.results import Attached
from tracer import backends, probes
from tracer.model.errors import KtraceError


class Maker(Protocol):
    """`SUITES` are the guests for this backend, and `TESTS` the default pytest arguments for them.
    `PROBES` are those for which the backend has programs."""

    SUITES: Sequence[Suite]
    TESTS: Sequence[str]
    PROBES: Sequence[str]

    def fetched(self, suite: Suite, say: Say, refresh: bool = False) -> Kernel:
        """The kernel of one of these guests."""

    def additions(self, suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
        """The backend's requirements in any guest with this kernel."""

    def attach(self) -> Iterable[tuple[str, Attached]]:
        """In a guest: attaches every probe for real, and yields the result by name."""


def maker(backend: str) -> Maker:
    return cast(Maker, importlib.import_module(f"{__package__}.{backend}"))


def attach_together(backend: str, names: Sequence[str]) -> Iterator[tuple[str, Attached]]:
    """For a backend that is slow to attach."""
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
