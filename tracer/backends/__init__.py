# SPDX-License-Identifier: Apache-2.0
"""Ways to get raw records out of a kernel, behind one small interface.

All yield `Batch`es of the same records, so nothing after a backend knows which one ran.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
# Called with messages for the user: what will take long, and why.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """`ring_bytes` wait in the kernel's ring, of at most `ring_size`; None if that is not known.
    `programs` are the seconds and the runs of each BPF program, while the kernel counts them."""

    ring_bytes: int | None = None
    ring_size: int | None = None
    programs: Mapping[str, tuple[float, int]] = field(default_factory=dict)


class Backend(Protocol):
    """`schemas` are by the kind numbers in the records. `attached` maps a probe's name to the
    attach point taken. `walked` says whether the kernel side has described what already ran. After
    `detach`, `unseen` counts refused runs of the programs in `AttachPoint.nested`, which would
    almost never have reported anything."""

    name: str
    schemas: dict[int, Schema]
    attached: dict[str, AttachPoint]
    walked: bool
    unseen: dict[str, int]

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        """Loads and attaches every probe. `settings` are written into the programs by name."""

    def select(self, cgroup: int, verdict: int) -> None:
        """Sets in the kernel whether events of this cgroup are wanted (`enum kt_selected`)."""

    def trace_pid(self, pid: int) -> None:
        """Adds a target process; only with the setting `kt_by_pid`."""

    def read(self, timeout: float) -> Batch | None:
        """Waits up to `timeout` seconds for records. Returns early when `wake` was called."""

    def wake(self) -> None:
        """Makes a waiting `read` return. Makes an `attach` that waits for a compiler raise
        `KeyboardInterrupt`. May be called from a signal handler or another thread."""

    def lost(self) -> dict[str, int]:
        """Records that found no room, by event name, since attaching."""

    def cost(self) -> Cost:
        """What tracing takes of the kernel now. Called in the thread that reads."""

    def detach(self) -> None:
        """Ends tracing in the kernel; the records in the ring can still be read."""

    def close(self) -> None:
        """Releases everything. May be called more than once."""


def tell(words: str) -> None:
    print(words, file=sys.stderr)


def create(name: str, say: Say = tell) -> Backend:
    backend: Backend = _module(name).create(say)
    return backend


def lacking(backend: str, probe: Probe | None = None) -> list[Lack]:
    """What keeps the backend, or this probe on it, from being tried. Only cheap checks: the kernel
    may still refuse."""
    found: list[Lack] = _module(backend).lacking(probe)
    return found


def choose(wanted: str, probes: Sequence[Probe], say: Say = tell) -> Backend:
    """The backend of that name, or for `auto` the first that lacks nothing for these probes. If it
    passes one over, `say` gets the reason."""
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
    """The error that names every attach point of a probe and the kernel's answer to it."""
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
