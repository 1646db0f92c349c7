# SPDX-License-Identifier: Apache-2.0
"""Names of GFP flags on the kernel that made the records."""

from __future__ import annotations

from typing import Any

from tracer.decode.gfp import Table, unpack, words
from tracer.identity.resolver import Resolver


class FlagNames:
    """The names in one stream."""

    def __init__(self, _: Resolver) -> None:
        self._table: Table | None = None

    def learn(self, record: Any) -> None:
        """A `struct gfp_names_event`: its names are valid from now on."""
        self._table = unpack(record.names[: record.names_bytes])

    def words(self, mask: int) -> list[str] | None:
        """The names of a mask; None if the stream has none."""
        return words(mask, self._table) if self._table else None
