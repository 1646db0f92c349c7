# SPDX-License-Identifier: Apache-2.0
"""GFP flags by the names of the kernel that made the records."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from tracer.decode.gfp import Table, unpack, words
from tracer.identity.resolver import Resolver

_tables: WeakKeyDictionary[Resolver, Table] = WeakKeyDictionary()


def learn(record: Any, resolver: Resolver) -> None:
    """Decodes a `struct gfp_names_event`: from now on its names hold."""
    _tables[resolver] = unpack(record.names[: record.names_bytes])


def flags(mask: int, resolver: Resolver) -> list[str] | None:
    """By the names of the kernel that made the records; None if it did not tell them."""
    table = _tables.get(resolver)
    return words(mask, table) if table else None
