# SPDX-License-Identifier: Apache-2.0
"""What a session expects of a recorder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tracer.identity.resolver import Resolver
    from tracer.model.turn import Turn


class Recorder(Protocol):
    """Gets each turn after the session has processed it."""

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        """`waited` says whether events were waiting for the time to pass."""

    def patience(self, now: int) -> float:
        """The seconds within which it needs the next turn."""
