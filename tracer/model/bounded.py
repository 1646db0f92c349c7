# SPDX-License-Identifier: Apache-2.0
"""Tables with a fixed upper bound of memory."""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# A table's own overhead for an entry.
ENTRY_BYTES = 120
# At most this many spared entries are passed over in one search for an entry to drop.
CHANCES = 64
# Sizes are kept in units of this many bytes: Python shares small integers.
_UNIT = 64


def keep(table: dict[K, V], key: K, value: V, most: int) -> None:
    """Stores `value` as the youngest entry and drops the oldest if there are more than `most`."""
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]


def touch(table: dict[K, V], key: K) -> V | None:
    """The entry, which becomes the youngest; None if there is none."""
    value = table.pop(key, None)
    if value is not None:
        table[key] = value
    return value


Spares = Callable[[K, V], bool]


class Table(dict[K, V]):
    """An LRU table of at most `most` bytes; `size_of` gives the size of a value. The oldest entry
    goes first. `keep` and `weigh` take a `spares`: an entry for which it is true becomes the
    youngest instead, if there are others to drop.

    Read it like any other dict. Write only through `keep` and `drop`."""

    def __init__(self, most: int, size_of: Callable[[V], int]) -> None:
        super().__init__()
        self._most = most
        self._units = 0
        self._size_of = size_of
        self._sizes: dict[K, int] = {}

    @property
    def bytes(self) -> int:
        return self._units * _UNIT

    def keep(self, key: K, value: V, spares: Spares[K, V] | None = None) -> list[tuple[K, V]]:
        """Stores it as the youngest entry; returns the dropped entries. The new entry itself stays,
        whatever its size."""
        self.pop(key, None)
        self[key] = value
        return self.weigh(key, spares)

    def weigh(self, key: K, spares: Spares[K, V] | None = None) -> list[tuple[K, V]]:
        """Call this when an entry has grown or shrunk; returns the dropped entries."""
        units = (ENTRY_BYTES + size_of(key) + self._size_of(self[key])) // _UNIT + 1
        self._units += units - self._sizes.get(key, 0)
        self._sizes[key] = units
        return self._forget(key, spares) if self.bytes > self._most else []

    def touch(self, key: K) -> V | None:
        """The entry, which becomes the youngest; None if there is none."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def drop(self, key: K) -> V | None:
        self._units -= self._sizes.pop(key, 0)
        return self.pop(key, None)

    def _forget(self, weighed: K, spares: Spares[K, V] | None) -> list[tuple[K, V]]:
        """The weighed entry stays, also if all others are spared: whoever weighs it goes on with
        it."""
        gone: list[tuple[K, V]] = []
        chances = min(CHANCES, len(self) - 1)
        while self.bytes > self._most and len(self) > 1:
            key = next(iter(self))
            value = self[key]
            if key == weighed or (chances and spares and spares(key, value)):
                chances -= key != weighed
                del self[key]
                self[key] = value
                continue
            self.drop(key)
            gone.append((key, value))
        return gone


def size_of(*values: Any) -> int:
    """The memory of texts, bytes, numbers and plain collections of them, in bytes."""
    total = 0
    rest = list(values)
    for value in rest:  # the loop appends the members of collections
        total += getsizeof(value)
        if isinstance(value, dict):
            rest += value
            rest += value.values()
        elif isinstance(value, list | tuple | frozenset):
            rest += value
    return total
