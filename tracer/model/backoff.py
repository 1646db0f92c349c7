# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts: each twice as long as the one before, with some jitter, so that the
agents of a cluster do not all come back at once."""

from __future__ import annotations

import random

# The longest pause that a peer may ask for, in seconds.
MOST_ASKED = 300.0


class Backoff:
    """Times are in seconds."""

    def __init__(self, first: float = 1.0, most: float = 60.0) -> None:
        self._first = self._pause = first
        self._most = most

    def next(self, asked: float | None = None) -> float:
        """The pause before the next attempt, at least what the peer `asked` for within reason."""
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311
        self._pause = min(self._pause * 2, self._most)
        return max(pause, min(asked or 0.0, MOST_ASKED))

    def reset(self) -> None:
        """An attempt was good for something."""
        self._pause = self._first
