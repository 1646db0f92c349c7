# SPDX-License-Identifier: Apache-2.0
"""Turns a session's turns into blocks of a recording. Nothing is decoded.

Turns gather for a second, those of a frugal recorder for half of one, or until they hold 4096
events; then they become one block. A disk error is reported once and ends the recording, never the
tracing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import orjson

from tracer.backends import Backend
from tracer.identity.resolver import Resolver
from tracer.model.batch import HEADER
from tracer.model.event import Clock
from tracer.model.kubernetes import Facts
from tracer.model.names import Names
from tracer.model.selection import Selection
from tracer.model.turn import Part, Turn
from tracer.probes import Probe
from tracer.recording.context import Context
from tracer.recording.files import Destination
from tracer.recording.format import (
    Kind,
    block,
    by_kind,
    events_payload,
    facts_json,
    file_header,
    json_block,
    lost_json,
    names_json,
)
from tracer.recording.metadata import Metadata
from tracer.session.run import Run

FLUSH_NS, FRUGAL_FLUSH_NS = 1_000_000_000, 500_000_000
FLUSH_EVENTS = 4096
FLUSH_BYTES, FRUGAL_FLUSH_BYTES = 4 << 20, 1 << 20


class Recorder:
    """A `tracer.session.session.Recorder`. On its first error it calls `on_failure`, keeps the
    error in `failure`, and writes no more. `events` counts written events, `unrecorded` the
    others. A file that begins later has the offset of `clock` at that time."""

    def __init__(
        self,
        out: Destination,
        metadata: Metadata,
        probes: Sequence[Probe],
        on_failure: Callable[[OSError], None],
        clock: Clock | None = None,
        *,
        frugal: bool = False,
    ) -> None:
        self.events = self.unrecorded = 0
        self._out = out
        self._metadata = metadata
        self._schemas = metadata.schemas
        self._on_failure = on_failure
        self._clock = clock or Clock(metadata.clock_offset_ns)
        self.failure: OSError | None = None
        self._events = _events(metadata, probes)
        self._pending: list[Turn] = []
        self._pending_events = self._pending_bytes = 0
        self._most_bytes = FRUGAL_FLUSH_BYTES if frugal else FLUSH_BYTES
        self._most_ns = FRUGAL_FLUSH_NS if frugal else FLUSH_NS
        self._was_empty = True
        self._facts = Facts()
        self._context: Context | None = None
        if out.resumes:
            self._context = Context(metadata.schemas, probes, frugal=frugal)
        self._resolver: Resolver | None = None
        self._try(lambda: out.begin(self._beginning, metadata.began))

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        self._resolver = resolver
        if self._pending and (_tells(turn) or self._due(turn.now)):
            self._flush(resolver)
        self._try(lambda: self._out.tick(turn.now))
        was_empty, self._was_empty = self._was_empty, turn.empty
        if turn.empty and was_empty and not waited:
            return
        self._keep(turn)
        if turn.last or self._full():
            self._flush(resolver)

    @property
    def waiting(self) -> bool:
        """Whether there are turns that are still to be written."""
        return bool(self._pending)

    def patience(self, now: int) -> float:
        if not self._pending:
            return self._most_ns / 1e9
        return max(0, self._pending[0].now + self._most_ns - now) / 1e9

    def close(self) -> None:
        """Ends the recording in order, even a failed one if that is still possible."""
        end = {"events": self.events, "unrecorded": self.unrecorded}
        try:
            self._out.close(json_block(Kind.END, end))
        except OSError as error:
            if self.failure is None:
                self.failure = error
                self._on_failure(error)

    def _beginning(self, now: int) -> bytes:
        """The first bytes of a file: its header, its metadata, and the records that later ones
        refer to."""
        offset = self._clock.offset_ns
        metadata = replace(self._metadata, began=now, clock_offset_ns=offset)
        blocks = [file_header(), json_block(Kind.META, metadata.json())]
        if self._context and self._resolver:
            if said := self._facts.all():
                blocks.append(json_block(Kind.KUBERNETES, facts_json(said)))
            for turn in self._context.turns(now, self._resolver.names):
                blocks.append(self._blocks([turn], 0, self._resolver))
        return b"".join(blocks)

    def _keep(self, turn: Turn) -> None:
        parts = [
            Part(part.kind, part.count, self._schemas[part.kind].clean(part.cells))
            for part in turn.parts
        ]
        self._pending.append(
            Turn(
                *(turn.now, parts, turn.more, turn.names, turn.answered, turn.lost, turn.last),
                facts=turn.facts,
            )
        )
        self._facts.learn(turn.facts)
        if self._context:
            for part in parts:
                self._context.add(part)
        self._pending_events += sum(part.count for part in parts if part.kind in self._events)
        self._pending_bytes += sum(len(part.cells) for part in parts)

    def _due(self, now: int) -> bool:
        return now - self._pending[0].now >= self._most_ns

    def _full(self) -> bool:
        return self._pending_events >= FLUSH_EVENTS or self._pending_bytes >= self._most_bytes

    def _flush(self, resolver: Resolver) -> None:
        turns, self._pending = self._pending, []
        events, self._pending_events, self._pending_bytes = self._pending_events, 0, 0
        if self._out.idle:
            self._note_references(by_kind(turns))
            return

        def write() -> None:
            blocks = self._blocks(turns, events, resolver)
            self._out.write(blocks, turns[0].now, turns[-1].now)

        if self._try(write):
            self.events += events
        else:
            self.unrecorded += events

    def _try(self, write: Callable[[], None]) -> bool:
        if self.failure is None:
            try:
                write()
            except OSError as error:
                self.failure = error
                self._on_failure(error)
        return self.failure is None

    def _blocks(self, turns: list[Turn], events: int, resolver: Resolver) -> bytes:
        """Names and losses of the first turn are blocks of their own, in front."""
        first = turns[0]
        cells = by_kind(turns)
        self._note_references(cells)
        blocks = []
        if first.names != Names() or first.answered:
            blocks.append(json_block(Kind.IDENTITY, names_json(first.names, first.answered)))
        if first.facts:
            blocks.append(json_block(Kind.KUBERNETES, facts_json(first.facts)))
        lost = 0
        if first.lost:
            lost = sum(first.lost.counts.values())
            blocks.append(json_block(Kind.LOST, lost_json(first.lost)))
        blocks.append(
            block(
                Kind.EVENTS,
                events_payload(turns, cells, self._schemas),
                count=events,
                first=first.now,
                last=turns[-1].now,
                lost=lost,
                summary=self._summary(cells, resolver),
            )
        )
        return b"".join(blocks)

    def _note_references(self, cells: Mapping[int, bytes]) -> None:
        if self._context:
            for kind, data in cells.items():
                if kind in self._events:
                    for word in self._events[kind].processes:
                        self._context.used(set(self._column(kind, data, word)))

    def _summary(self, cells: Mapping[int, bytes], resolver: Resolver) -> bytes:
        """The number of events by kind and pod uid; "" is no pod."""
        counts: dict[str, dict[str, int]] = {}
        for kind, data in cells.items():
            if kind in self._events:
                event = self._events[kind]
                find = resolver.place_of if event.of_process else resolver.place
                pods = counts[self._schemas[kind].name] = {}
                for id_, count in Counter(self._column(kind, data, event.whose)).items():
                    place = find(id_)
                    uid = (place and place.identity.pod_uid) or ""
                    pods[uid] = pods.get(uid, 0) + count
        return orjson.dumps(counts)

    def _column(self, kind: int, data: bytes, word: int) -> list[int]:
        """One 64-bit member of all cells. `word` is its offset in 64-bit words."""
        return memoryview(data).cast("Q")[word :: self._schemas[kind].cell.size // 8].tolist()


@dataclass(frozen=True, slots=True)
class _Event:
    """Offsets of the owner and the process ids in a record, in 64-bit words. The owner is a process
    if `of_process`, else a cgroup."""

    whose: int
    of_process: bool
    processes: list[int]


def recorder_of(
    run: Run, out: Destination, node: str, on_failure: Callable[[OSError], None]
) -> Recorder:
    """The recorder of a run that has just been attached."""
    metadata = metadata_here(node, run.backend, run.clock, run.selection, run.request.count)
    return Recorder(*(out, metadata, run.probes, on_failure, run.clock), frugal=run.request.frugal)


def metadata_here(
    node: str, backend: Backend, clock: Clock, selection: Selection, count: int | None
) -> Metadata:
    """The metadata of a session on this node that has just been attached."""
    here = os.uname()
    return Metadata(
        node=node,
        kernel=here.release,
        machine=here.machine,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        ktrace=version("ktrace"),
        began=clock.now(),
        clock_offset_ns=clock.offset_ns,
        selection=selection,
        count=count,
        attached={probe: point.name for probe, point in backend.attached.items()},
        cannot_tell={probe: list(point.cannot_tell) for probe, point in backend.attached.items()},
        schemas=backend.schemas,
    )


def _tells(turn: Turn) -> bool:
    return bool(turn.lost or turn.answered or turn.facts or turn.names != Names())


def _events(metadata: Metadata, probes: Sequence[Probe]) -> dict[int, _Event]:
    whose = {name: member for probe in probes for name, member in probe.whose.items()}
    found = {}
    for kind, schema in metadata.schemas.items():
        words = {field.name: (HEADER + field.offset) // 8 for field in schema.fields}
        processes = [f.name for f in schema.fields if f.type == "kt_process_id"]
        member = whose.get(schema.name)
        if member is not None:
            of_process = member in processes
            found[kind] = _Event(words[member], of_process, [words[name] for name in processes])
    return found
