# SPDX-License-Identifier: Apache-2.0
"""GFP flags by the names of the kernel that made the records."""

from __future__ import annotations

from typing import Any

from tracer.decode.gfp import Table, unpack, words
from tracer.identity.resolver import Resolver


class FlagNames:
    """What one stream has told of them."""

    def __init__(self, _: Resolver) -> None:
        self._table: Table | None = None

    def learn(self, record: Any) -> None:
        """A `struct gfp_names_event`: from now on its names hold."""
        self._table = unpack(record.names[: record.names_bytes])

    def words(self, mask: int) -> list[str] | None:
        """None if the kernel did not tell them."""
        return words(mask, self._table) if self._table else None
