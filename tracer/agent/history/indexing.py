# SPDX-License-Identifier: Apache-2.0
"""Keeps the index beside the recordings. What fails here is the index's failure, not the history's:
it is opened again later, and what it lacks then is still in the recordings."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracer.agent.history import INDEX
from tracer.agent.history.entry import Entries
from tracer.agent.history.index import DAMAGE, Index, remove
from tracer.agent.history.intake import take_in

PAUSE = 60.0


class Indexing:
    """Used in one thread. `bytes` and `failures` may be read in any."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self.bytes = self.failures = 0
        self._index: Index | None = None
        self._again_at = 0.0
        self._told = False

    @property
    def due(self) -> bool:
        """Whether it is time to open it again."""
        return self._index is None and time.monotonic() >= self._again_at

    def mend(self) -> None:
        """Opens it, makes it again if it cannot be used, and takes in what it lacks."""
        path = self._directory / INDEX
        with self._may_fail():
            try:
                self._index = Index(path, whole=True)
                take_in(self._index, self._directory)
            except sqlite3.OperationalError:
                raise
            except DAMAGE as error:
                self._say(f"ktrace: the index of the history is made again: {error}")
                self.close()
                remove(path)
                self._index = Index(path)
                take_in(self._index, self._directory)
            self.bytes = self._index.bytes
            self._told = False

    def enter(
        self, number: int, session: int, until: int | None, entries: Entries, now_ns: int
    ) -> None:
        """Entries of a recording that is taken in up to `until`; None if they stand in none."""
        if self._index:
            with self._may_fail():
                self._index.take(number, session, until, entries, now_ns)
                self.bytes = self._index.bytes

    def forget(self, before_ns: int, left: set[int], most: int) -> None:
        """What is older, and what is of recordings that are gone; `most` is in bytes."""
        if self._index:
            with self._may_fail():
                self._index.forget(before_ns, left, most)
                self.bytes = self._index.bytes

    def close(self) -> None:
        if self._index:
            self._index.close()

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, *DAMAGE) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._index:
            with suppress(sqlite3.Error):
                self._index.close()
        self._index = None
        self._again_at = time.monotonic() + PAUSE
        self.failures += 1
        if not self._told:
            self._told = True
            later = "it is made from the recordings later"
            self._say(f"ktrace: the index cannot be written: {error}; {later}")
