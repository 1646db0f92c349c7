# SPDX-License-Identifier: Apache-2.0
"""A publisher's queue and thread. `accept` never blocks: what finds no room is dropped and counted.

Events wait in a queue of their own, so that a storm of them cannot push a verdict out. A batch that
could not be sent is sent again after a pause that doubles each time, with some jitter, so that the
agents of a cluster do not all come back at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from tracer.agent.health import Counts
from tracer.agent.item import Item
from tracer.agent.publishers import NotSent, Refused, Sender
from tracer.model.backoff import Backoff

# Bytes of a publisher's two queues together.
MAX_QUEUE = 4 << 20
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
# Different failures that are told until something is sent again.
MAX_TOLD = 8
# Characters of a failure: peers and names take part in it.
MAX_WORDS = 400


class _Queue:
    """Items of at most `most` bytes, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self.bytes = 0
        self._most = most
        self.items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: Item) -> bool:
        """Whether there was room."""
        if self.bytes + item.size > self._most:
            return False
        self.items.append(item)
        self.bytes += item.size
        return True

    def take(self, most: int) -> list[Item]:
        """The oldest items, at most so many."""
        taken = [self.items.popleft() for _ in range(min(most, len(self.items)))]
        self.bytes -= sum(item.size for item in taken)
        return taken


class Outlet:
    """`pause` is the first pause before another attempt, in seconds."""

    def __init__(
        self,
        name: str,
        sender: Sender,
        say: Callable[[str], None],
        *,
        most: int = MAX_QUEUE,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self.name = name
        self.sender = sender
        self._say = say
        self._pause = pause
        self._changed = threading.Condition()
        self._first, self._events = _Queue(most // 2), _Queue(most // 2)
        self._sending: Sequence[Item] = ()
        self._sent = self._retried = self._dropped = 0
        self._told: list[str] = []
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"publish {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wants(self, item: Item) -> bool:
        if item.kind not in self.sender.kinds or not self.sender.takes(item):
            return False
        return item.kind != "event" or item.severity >= self.sender.least

    def accept(self, item: Item) -> None:
        """Never blocks. A full queue drops the new item."""
        with self._changed:
            queue = self._events if item.kind == "event" else self._first
            if queue.add(item):
                self._changed.notify()
            else:
                self._dropped += 1

    def drop(self, count: int) -> None:
        """Counts items that were not even made, because there were too many."""
        with self._changed:
            self._dropped += count

    @property
    def counts(self) -> Counts:
        with self._changed:
            waiting = len(self._first) + len(self._events) + len(self._sending)
            size = self._first.bytes + self._events.bytes + sum(i.size for i in self._sending)
            return Counts(self._sent, self._retried, self._dropped, waiting, size)

    def stop(self, seconds: float) -> None:
        """Sends what waits, for at most so many seconds; the rest counts as dropped."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._deadline = deadline
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left = len(self._first) + len(self._events) + len(self._sending)
            self._dropped += left
            self._first, self._events, self._sending = _Queue(0), _Queue(0), ()  # no room
        if left:
            self._say(f"ktrace: {self.name}: {left} items were not sent before the end")

    def _run(self) -> None:
        while (batch := self._next()) and self._send(batch):
            pass
        self.sender.close()

    def _next(self) -> Sequence[Item]:
        """The next items, verdicts first; none at the end."""
        with self._changed:
            while not (self._first or self._events):
                if self._deadline is not None:
                    return ()
                self._changed.wait()
            batch = self._first.take(self.sender.batch)
            batch += self._events.take(self.sender.batch - len(batch))
            self._sending = batch
            return batch

    def _send(self, batch: Sequence[Item]) -> bool:
        """Tries until everything is sent or refused; False if there is no time left for that."""
        backoff = Backoff(self._pause, LAST_PAUSE)
        while batch:
            try:
                self.sender.send(batch)
            except NotSent as failure:
                rest = batch if failure.rest is None else failure.rest
                sent = len(batch) - len(rest) - failure.dropped
                self._done(sent=sent, dropped=failure.dropped, rest=rest)
                self._tell(failure.reason, failure.remedy)
                if len(rest) < len(batch):
                    backoff.reset()
                if rest and not self._wait(backoff.next(failure.after)):
                    return False
                self._retried += bool(rest)
                batch = rest
            except Refused as failure:
                dropped = len(batch) if failure.dropped is None else failure.dropped
                self._done(sent=len(batch) - dropped, dropped=dropped)
                self._tell(failure.reason, failure.remedy)
                return True
            except Exception as error:  # a mistake in one publisher must not end the others
                self._done(dropped=len(batch))
                self._tell(f"{type(error).__name__}: {error}", None)
                return True
            else:
                self._done(sent=len(batch))
                self._told.clear()
                return True
        return True

    def _done(self, sent: int = 0, dropped: int = 0, rest: Sequence[Item] = ()) -> None:
        with self._changed:
            if not self._sending:  # `stop` has given up, and has counted them
                return
            self._sent += sent
            self._dropped += dropped
            self._sending = rest

    def _wait(self, seconds: float) -> bool:
        """Waits for the next attempt; returns whether there is one before the end."""
        until = time.monotonic() + seconds
        with self._changed:
            while (now := time.monotonic()) < until:
                if self._deadline is not None and until > self._deadline:
                    return False
                self._changed.wait(until - now)
            return self._deadline is None or now < self._deadline

    def _tell(self, reason: str, remedy: str | None) -> None:
        """Says each failure once until something is sent again; of those that the same line mends,
        the first."""
        words = " ".join(reason.split())[:MAX_WORDS]
        mark = remedy or words
        if mark not in self._told and len(self._told) < MAX_TOLD:
            self._told.append(mark)
            whole = f"{words}; {remedy}" if remedy else words  # what mends it is never cut
            self._say(f"ktrace: {self.name}: {whole}; tracing goes on")
