# SPDX-License-Identifier: Apache-2.0
"""Which cgroups are gone, after the records of their ends were lost.

A walk through cgroupfs answers that, in a thread of its own: on a node with many cgroups it takes a
while. One walk is under way at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue

from tracer.kernel.cgroupfs import gone


class Ends:
    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._gone: SimpleQueue[list[int]] = SimpleQueue()

    def ask(self, cgroups: Sequence[int]) -> bool:
        """Looks which of these are gone; False while it still looks for others."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(
            target=self._look, args=(cgroups,), name="lost ends", daemon=True
        )
        self._thread.start()
        return True

    @property
    def found(self) -> bool:
        return not self._gone.empty()

    def take(self) -> list[int]:
        return self._gone.get() if self.found else []

    def _look(self, cgroups: Sequence[int]) -> None:
        with suppress(OSError):  # such as too many open files: the next loss asks again
            if ended := gone(cgroups):
                self._gone.put(ended)
