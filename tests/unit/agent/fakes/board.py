# SPDX-License-Identifier: Apache-2.0
"""A publisher for tests: a board in this process, which does what `Board` is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tracer.agent.item import Item, Severity
from tracer.agent.publishers import Means, Options, Page, Publisher, Sender, option
from tracer.model.event import Event


@dataclass(frozen=True)
class BoardOptions(Options):
    on: bool = option(False, "Publish to a board.")
    room: str = option("hall", "Where the board hangs.", "NAME")
    pause: float = option(1.5, "A pause.", "TIME", "duration")
    space: int = option(1 << 20, "Its size.", "SIZE", "size")
    pins: int = option(3, "Pins.", "N")
    colours: tuple[str, ...] = option((), "Colours. Repeatable.", "NAME")
    light: bool = option(True, "Light it.")


class Board(Sender):
    kinds = frozenset(("verdict", "event", "lost", "health"))
    least = Severity.INFO
    batch = 10
    observes = True

    def __init__(self, act: Callable[[Sequence[Item]], None] = lambda items: None) -> None:
        self.act = act
        self.sent: list[Item] = []
        self.observed = 0
        self.closed = threading.Event()

    def send(self, items: Sequence[Item]) -> None:
        self.act(items)
        self.sent += items

    def observe(self, event: Event) -> None:
        self.observed += 1

    def pages(self) -> Mapping[str, Page]:
        return {"/board": lambda: ("text/plain", b"a board\n")}

    def close(self) -> None:
        self.closed.set()


made: list[Board] = []


def _make(options: BoardOptions, means: Means) -> Board:
    made.append(Board())
    return made[-1]


PUBLISHER = Publisher(
    help="a board",
    options=BoardOptions,
    make=_make,
    plan=lambda options: [f"verdicts to the board in {options.room}"],
)
