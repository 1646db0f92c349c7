# SPDX-License-Identifier: Apache-2.0
"""Decodes records of which many are alike: in a storm, most differ in their time only.

A pattern is what such records have in common: the event that they make. It is decoded once; each
further record is recognised by its bytes. A pattern rests on what the resolver knew when it was
made, so all are made again when the resolver has learned or forgotten something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter, itemgetter
from struct import Struct
from typing import Any, NamedTuple, cast

from tracer.identity.resolver import Resolver
from tracer.model.batch import HEADER
from tracer.model.event import Event, Process
from tracer.model.schema import Schema
from tracer.model.turn import Part
from tracer.probes import DAMAGE, Decode

# Bytes of all patterns of a session, and of one: its event, and what a sink keeps with it.
MAX_PATTERNS, PATTERN_BYTES = 4 << 20, 750
# When they are full, the oldest one of so many parts is made again.
PARTS = 8
# Where the time of a record lies (`struct kt_header`). The kind and the CPU are before it.
_TIME_OFFSET, _TIME_BYTES = 8, 8


@dataclass(slots=True, eq=False)
class Pattern:
    """An event, and all others that differ from it in their time only. `sender` and `target` are
    the references of its processes, 0 for none. `wanted_at` is the resolver's count of changes when
    the selection last wanted it. `spot` belongs to the sink."""

    event: Event
    target: int = 0
    sender: int = 0
    wanted_at: int = -1
    spot: Any = None

    def at(self, boot_ns: int) -> Event:
        return self.event.at(boot_ns)


# A time, and the pattern of the event that happened then.
Sighting = tuple[int, Pattern]

TIME, PATTERN = itemgetter(0), itemgetter(1)
_PARTIES = attrgetter("sender", "target")


class _Layout(NamedTuple):
    """`split` takes cells apart into their times and the bytes behind them."""

    schema: Schema
    split: Struct
    decode: Decode


class Patterns:
    """`repeating` are the decoders of records whose events depend only on the time, on the bytes
    behind it, and on what the resolver knows. About `most` bytes of patterns are kept. `undecoded`
    counts records that cannot be decoded."""

    def __init__(self, resolver: Resolver, repeating: Mapping[str, Decode], most: int) -> None:
        self.undecoded = 0
        self._resolver = resolver
        self._repeating = repeating
        self._room = self._most = most // PATTERN_BYTES
        self._knowledge = -1  # the state of the resolver when the patterns were made
        self._layouts: dict[int, _Layout | None] = {}
        self._known: dict[int, dict[bytes, Pattern]] = {}

    def hold(self, kind: int, schema: Schema) -> bool:
        """Whether records of this kind are decoded here."""
        if kind not in self._layouts:
            self._layouts[kind] = _layout(schema, self._repeating.get(schema.name))
            self._known[kind] = {}
        return self._layouts[kind] is not None

    def sightings(self, parts: Sequence[Part]) -> list[Sighting]:
        """What the records of neighbouring parts make, in their order. Those of one kind are taken
        together, because on a busy node the kinds alternate after every few records."""
        if self._knowledge != self._resolver.knowledge:
            self._forget()
        cells: dict[int, list[bytes | memoryview]] = {}
        for part in parts:
            cells.setdefault(part.kind, []).append(part.cells)
        of_kind = {kind: self._of_kind(kind, b"".join(some)) for kind, some in cells.items()}
        if len(of_kind) == 1:
            (found,) = of_kind.values()
        else:
            found = []
            streams = {kind: iter(some) for kind, some in of_kind.items()}
            for part in parts:
                found += islice(streams[part.kind], part.count)
        made = cast("list[Sighting]", [one for one in found if one[1] is not None])
        self._use(map(PATTERN, reversed(made)))
        return made

    def _of_kind(self, kind: int, cells: bytes) -> list[tuple[int, Pattern | None]]:
        """The pattern is None for a record that makes no event."""
        layout, known = self._layouts[kind], self._known[kind]
        assert layout is not None
        split = list(layout.split.iter_unpack(cells))
        patterns = list(map(known.get, map(PATTERN, split)))
        size = layout.schema.cell.size
        for at in [at for at, pattern in enumerate(patterns) if pattern is None]:
            rest, cell = split[at][1], cells[at * size : (at + 1) * size]
            patterns[at] = known.get(rest) or self._learn(layout, known, rest, cell)
        return list(zip(map(TIME, split), patterns, strict=True))

    def _learn(
        self, layout: _Layout, known: dict[bytes, Pattern], rest: bytes, cell: bytes
    ) -> Pattern | None:
        try:
            event = layout.decode(layout.schema.make(layout.schema.cell.unpack(cell)))
        except DAMAGE:
            self.undecoded += 1
            return None
        if event is None:
            return None
        pattern = Pattern(event, _reference(event.about), _reference(event.by))
        if event.again is None and _is_described(event.about) and _is_described(event.by):
            if self._room <= 0:
                self._make_room()
            self._room -= 1
            known[rest] = pattern
        return pattern

    def _forget(self) -> None:
        self._knowledge, self._room = self._resolver.knowledge, self._most
        for known in self._known.values():
            known.clear()

    def _make_room(self) -> None:
        """Forgets the oldest ones of each kind."""
        for known in self._known.values():
            oldest = list(islice(known, -(-len(known) // PARTS)))
            for rest in oldest:
                del known[rest]
            self._room += len(oldest)

    def _use(self, latest_first: Iterable[Pattern]) -> None:
        """Keeps the processes in the resolver's order of use."""
        references = dict.fromkeys(chain.from_iterable(map(_PARTIES, latest_first)))
        self._resolver.use(reversed(references))


def _layout(schema: Schema, decode: Decode | None) -> _Layout | None:
    """None without a decoder, or if the time does not lie where the kernel side puts it, as in a
    made-up recording."""
    times = ("time", _TIME_OFFSET, "Q")
    if decode is None or times not in [(f.name, f.offset, f.code) for f in schema.fields]:
        return None
    before = HEADER + _TIME_OFFSET
    after = schema.cell.size - before - _TIME_BYTES
    return _Layout(schema, Struct(f"={before}xQ{after}s"), decode)


def _reference(process: Process | None) -> int:
    return process.reference if process else 0


def _is_described(process: Process | None) -> bool:
    return process is None or process.comm is not None
