# SPDX-License-Identifier: Apache-2.0
"""Ways to get raw records out of a kernel, behind one small interface.

Nothing after a backend knows which one ran: all yield `Batch`es of the same records.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tracer.backends import privileges
from tracer.model.errors import CannotOnThisKernel

if TYPE_CHECKING:
    from tracer.model.batch import Batch
    from tracer.model.schema import Schema
    from tracer.probes import AttachPoint, Probe
from tracer.backends.lack import Lack

# In order of preference. Each is a module here, with `create(say: Say) -> Backend` and
# `lacking(probe: Probe | None) -> list[Lack]`, where None asks for the backend as such.
NAMES = ("core", "bcc", "stap")
# Is told what the user should know meanwhile: what will take long, and why.
Say = Callable[[str], None]


class Backend(Protocol):
    """`schemas` are by the kind numbers that stand in the records; `attached` tells the attach
    point taken for each probe's name; `walked` whether the kernel side has also looked at what ran
    before. After `detach`, `unseen` tells how many runs of which programs were left out that would
    next to never have told anything (`AttachPoint.nested`)."""

    name: str
    schemas: dict[int, Schema]
    attached: dict[str, AttachPoint]
    walked: bool
    unseen: dict[str, int]

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        """Loads and attaches every probe. `settings` are written into the programs by name."""

    def select(self, cgroup: int, verdict: int) -> None:
        """Tells the kernel side whether events of this cgroup are wanted (`enum kt_selected`)."""

    def trace_pid(self, pid: int) -> None:
        """Adds a target process; only with the setting `kt_by_pid`."""

    def read(self, timeout: float) -> Batch | None:
        """Waits up to `timeout` seconds for records. Returns early when `wake` was called."""

    def wake(self) -> None:
        """Makes a waiting `read` return, and an `attach` that waits for a compiler raise
        `KeyboardInterrupt`. May be called from a signal handler or another thread."""

    def lost(self) -> dict[str, int]:
        """Records that found no room, by event name, since attaching."""

    def detach(self) -> None:
        """Ends tracing in the kernel; what is in the ring can still be read."""

    def close(self) -> None:
        """Gives everything back. May be called more than once."""


def tell(words: str) -> None:
    print(words, file=sys.stderr)


def create(name: str, say: Say = tell) -> Backend:
    backend: Backend = _module(name).create(say)
    return backend


def lacking(backend: str, probe: Probe | None = None) -> list[Lack]:
    """What keeps the backend, or this probe by it, from being tried. Only cheap looks: that
    nothing is lacking does not say that the kernel will accept it."""
    found: list[Lack] = _module(backend).lacking(probe)
    return found


def choose(wanted: str, probes: Sequence[Probe], say: Say = tell) -> Backend:
    """The backend of that name, or for `auto` the first that lacks nothing for these probes. If
    that is not the first of all, `say` is told why."""
    privileges.check()
    passed_over: list[tuple[str, Lack]] = []
    for name in NAMES if wanted == "auto" else (wanted,):
        lack = _first_lack(name, probes)
        if lack is None:
            if passed_over:
                say(f"ktrace: backend {name}, as {_in_words(passed_over)}")
            return create(name, say)
        passed_over.append((name, lack))
    remedy = passed_over[0][1].remedy if len(passed_over) == 1 else "ktrace doctor tells the rest"
    raise CannotOnThisKernel(f"cannot trace here: {_in_words(passed_over)}", remedy)


def none_accepted(
    probe: Probe, refused: Sequence[tuple[AttachPoint, Exception]]
) -> CannotOnThisKernel:
    """The error that names every attach point of a probe, and what the kernel said to it."""
    return CannotOnThisKernel(
        f"{probe.name}: this kernel accepts none of "
        + ", ".join(f"{point.name} ({error})" for point, error in refused),
        "ktrace doctor tells what each probe needs",
    )


def _first_lack(name: str, probes: Sequence[Probe]) -> Lack | None:
    for probe in (None, *probes):
        if lacks := lacking(name, probe):
            return lacks[0]
    return None


def _in_words(passed_over: Sequence[tuple[str, Lack]]) -> str:
    return "; ".join(f"{name} lacks {lack.what}" for name, lack in passed_over)


def _module(backend: str) -> Any:
    return importlib.import_module(f"{__name__}.{backend}")
