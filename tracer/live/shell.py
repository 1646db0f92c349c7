# SPDX-License-Identifier: Apache-2.0
"""What a screen may ask of the application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from textual.screen import Screen

from tracer.live.bars import Part
from tracer.live.feed import Feed
from tracer.live.look import Times
from tracer.live.model import Snapshot
from tracer.live.words import Words

V = TypeVar("V", bound=Screen[Any])


class Shell(Protocol):
    """The application. `shown` is the snapshot on the screen."""

    feed: Feed
    times: Times
    words: Words
    shown: Snapshot

    def status(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """The two lines above each screen."""

    def deeper(self, kind: type[V]) -> V:
        """Opens the screen of this type."""
