# SPDX-License-Identifier: Apache-2.0
"""Tables that cannot grow without end: the node comes first."""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# What a table itself needs for an entry.
ENTRY_BYTES = 120
# So many of those that are spared are looked at for one that has to go.
CHANCES = 64
# Sizes are kept in units of so many bytes: small numbers take no memory of their own.
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
    """At most `most` bytes, as `size_of` tells of each value. The oldest goes first; one that
    `spares` speaks for, of whoever stores something, gets another turn if there are others.

    It is read like any other dict, and written by `keep` and `drop` alone."""

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
        """Stores it as the youngest entry; returns what had to go for it. The newest itself stays,
        whatever its size."""
        self.pop(key, None)
        self[key] = value
        return self.weigh(key, spares)

    def weigh(self, key: K, spares: Spares[K, V] | None = None) -> list[tuple[K, V]]:
        """The entry has grown or shrunk; returns what had to go for it."""
        units = (ENTRY_BYTES + size_of(key) + self._size_of(self[key])) // _UNIT + 1
        self._units += units - self._sizes.get(key, 0)
        self._sizes[key] = units
        return self._forget(spares) if self.bytes > self._most else []

    def touch(self, key: K) -> V | None:
        """The entry, which becomes the youngest; None if there is none."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def drop(self, key: K) -> V | None:
        self._units -= self._sizes.pop(key, 0)
        return self.pop(key, None)

    def _forget(self, spares: Spares[K, V] | None) -> list[tuple[K, V]]:
        gone: list[tuple[K, V]] = []
        chances = min(CHANCES, len(self) - 1)
        while self.bytes > self._most and len(self) > 1:
            key = next(iter(self))
            value = self[key]
            if chances and spares and spares(key, value):
                chances -= 1
                del self[key]
                self[key] = value
                continue
            self.drop(key)
            gone.append((key, value))
        return gone


def size_of(*values: Any) -> int:
    """What texts, bytes, numbers and plain collections of them take."""
    total = 0
    rest = list(values)
    for value in rest:  # which grows meanwhile by what is inside
        total += getsizeof(value)
        if isinstance(value, dict):
            rest += value
            rest += value.values()
        elif isinstance(value, list | tuple | frozenset):
            rest += value
    return total
