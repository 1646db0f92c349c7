# SPDX-License-Identifier: Apache-2.0
"""Turns a session's turns into blocks of a recording. Nothing is decoded.

Turns gather until a second has passed, or until they hold 4096 events; then they are one block.
What can go wrong with the disk is said once and ends the recording, never the tracing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import orjson

from tracer.backends import Backend
from tracer.backends.batch import HEADER
from tracer.event import Clock
from tracer.identity.model import Names
from tracer.identity.resolver import Resolver
from tracer.probes import Probe
from tracer.recording.files import Destination
from tracer.recording.format import (
    Kind,
    block,
    by_kind,
    events_payload,
    file_header,
    json_block,
    lost_json,
    names_json,
)
from tracer.recording.metadata import Metadata
from tracer.selection import Selection
from tracer.turn import Part, Turn

FLUSH_NS = 1_000_000_000
FLUSH_EVENTS = 4096
FLUSH_BYTES = 4 << 20


class Recorder:
    """A `tracer.session.Recorder`. `on_failure` is told, once, why there will be nothing more;
    `failure` is that; `events` counts what was written, `unrecorded` what was not."""

    def __init__(
        self,
        out: Destination,
        metadata: Metadata,
        probes: Sequence[Probe],
        on_failure: Callable[[OSError], None],
    ) -> None:
        self.events = self.unrecorded = 0
        self._out = out
        self._schemas = metadata.schemas
        self._on_failure = on_failure
        self.failure: OSError | None = None
        self._columns = _columns(metadata, probes)
        self._pending: list[Turn] = []
        self._pending_events = self._pending_bytes = 0
        self._was_empty = True
        self._try(lambda: out.begin(file_header() + json_block(Kind.META, metadata.json())))

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        if self._pending and (_tells(turn) or self._due(turn.now)):
            self._flush(resolver)
        was_empty, self._was_empty = self._was_empty, turn.empty
        if turn.empty and was_empty and not waited:
            return
        self._keep(turn)
        if turn.last or self._full():
            self._flush(resolver)

    def patience(self, now: int) -> float:
        if not self._pending:
            return FLUSH_NS / 1e9
        return max(0, self._pending[0].now + FLUSH_NS - now) / 1e9

    def close(self) -> None:
        end = {"events": self.events, "unrecorded": self.unrecorded}
        self._try(lambda: self._out.close(json_block(Kind.END, end)))

    def _keep(self, turn: Turn) -> None:
        parts = [
            Part(part.kind, part.count, self._schemas[part.kind].clean(part.cells))
            for part in turn.parts
        ]
        self._pending.append(
            Turn(turn.now, parts, turn.more, turn.names, turn.answered, turn.lost, turn.last)
        )
        self._pending_events += sum(part.count for part in parts if part.kind in self._columns)
        self._pending_bytes += sum(len(part.cells) for part in parts)

    def _due(self, now: int) -> bool:
        return now - self._pending[0].now >= FLUSH_NS

    def _full(self) -> bool:
        return self._pending_events >= FLUSH_EVENTS or self._pending_bytes >= FLUSH_BYTES

    def _flush(self, resolver: Resolver) -> None:
        turns, self._pending = self._pending, []
        events, self._pending_events, self._pending_bytes = self._pending_events, 0, 0
        if self._try(lambda: self._out.write(self._blocks(turns, events, resolver))):
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
        """What the first turn tells besides records stands before it, in blocks of its own."""
        first = turns[0]
        cells = by_kind(turns)
        blocks = []
        if first.names != Names() or first.answered:
            blocks.append(json_block(Kind.IDENTITY, names_json(first.names, first.answered)))
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

    def _summary(self, cells: Mapping[int, bytes], resolver: Resolver) -> bytes:
        """How many events of each kind concern each pod, by its uid; "" is no pod."""
        counts: dict[str, dict[str, int]] = {}
        for kind, data in cells.items():
            if kind in self._columns:
                offset, of_process = self._columns[kind]
                stride = self._schemas[kind].cell.size // 8
                ids = memoryview(data).cast("Q")[offset::stride].tolist()
                find = resolver.place_of if of_process else resolver.place
                pods: Counter[str] = Counter()
                for id_, count in Counter(ids).items():
                    place = find(id_)
                    pods[(place and place.identity.pod_uid) or ""] += count
                counts[self._schemas[kind].name] = pods
        return orjson.dumps(counts)


def metadata_here(
    backend: Backend, clock: Clock, selection: Selection, count: int | None
) -> Metadata:
    """Of a session on this node that has just been attached."""
    here = os.uname()
    return Metadata(
        node=here.nodename,
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
    return bool(turn.lost or turn.answered or turn.names != Names())


def _columns(metadata: Metadata, probes: Sequence[Probe]) -> dict[int, tuple[int, bool]]:
    """For each kind of event the 64-bit word of its cell that says whom it concerns, and whether
    that is a process."""
    whose = {name: member for probe in probes for name, member in probe.whose.items()}
    found = {}
    for kind, schema in metadata.schemas.items():
        for field in schema.fields:
            if whose.get(schema.name) == field.name:
                found[kind] = (HEADER + field.offset) // 8, field.type == "kt_process_id"
    return found
