# SPDX-License-Identifier: Apache-2.0
"""Tables that cannot grow without end: the node comes first."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


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
