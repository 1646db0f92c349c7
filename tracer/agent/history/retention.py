# SPDX-License-Identifier: Apache-2.0
"""What a history is too old for, by a wall clock that may be set at any time, forwards or back."""

from __future__ import annotations

from collections import deque

# Clocks that are remembered, and how far off another one is.
MAX_CLOCKS = 64
OTHER_NS = 1_000_000_000


class Retention:
    """Nobody knows which clock is the right one. So what goes is too old by every clock that there
    was within `seconds`, and what there was before that is too old by any. A machine may also begin
    with a wrong clock: at first, time goes on from `newest_ns`, when something was last written."""

    def __init__(self, seconds: float, offset_ns: int, newest_ns: int | None) -> None:
        self._ns = int(seconds * 1_000_000_000)
        self._offset_ns = offset_ns
        self._newest_ns = newest_ns
        self._former: deque[tuple[int, int]] = deque(maxlen=MAX_CLOCKS)

    def before_ns(self, now: int, offset_ns: int) -> int:
        """What is from before this moment (since 1970) may go. `now` is since boot; the wall clock
        is later by `offset_ns`."""
        if abs(offset_ns - self._offset_ns) >= OTHER_NS:
            self._former.append((now, self._offset_ns))
        self._offset_ns = offset_ns
        while self._former and now - self._former[0][0] > self._ns:
            self._former.popleft()
        moment = now + min([offset_ns, *(offset for _until, offset in self._former)])
        if self._newest_ns is not None:
            moment, self._newest_ns = min(moment, self._newest_ns), None
        return moment - self._ns
