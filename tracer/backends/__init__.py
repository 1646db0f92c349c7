# SPDX-License-Identifier: Apache-2.0
"""Ways to get raw records out of a kernel, behind one small interface.

Nothing after a backend knows which one ran: all yield `Batch`es of the same records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tracer.backends.batch import Batch
    from tracer.probes import AttachPoint, Probe
    from tracer.schema import Schema


class Backend(Protocol):
    """`schemas` are by the kind numbers that stand in the records; `attached` tells the attach
    point taken for each probe's name."""

    name: str
    schemas: dict[int, Schema]
    attached: dict[str, AttachPoint]

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        """Loads and attaches every probe. `settings` are written into the programs by name."""

    def select(self, cgroup: int, verdict: int) -> None:
        """Tells the kernel side whether events of this cgroup are wanted (`enum kt_selected`)."""

    def trace_pid(self, pid: int) -> None:
        """Adds a target process; only with the setting `kt_by_pid`."""

    def read(self, timeout: float) -> Batch | None:
        """Waits up to `timeout` seconds for records. Returns early when `wake` was called."""

    def wake(self) -> None:
        """Makes a waiting `read` return. May be called from a signal handler or another thread."""

    def lost(self) -> dict[str, int]:
        """Records that found no room, by event name, since attaching."""

    def detach(self) -> None:
        """Ends tracing in the kernel; what is in the ring can still be read."""

    def close(self) -> None:
        """Gives everything back. May be called more than once."""
