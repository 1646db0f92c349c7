# SPDX-License-Identifier: Apache-2.0
"""A Perfetto trace, for Perfetto's UI. Each pod has a track, with a track below it for each
container. A slice is a container's life, an instant an event, an arrow leads from sender to target.

The messages are a subset of protos/perfetto/trace/ in Perfetto's tree. A trace is one `Trace`
message, which can be written packet by packet.
"""

from __future__ import annotations

from typing import Any

from tracer.identity.cri import build_messages
from tracer.model.event import Event, Place, to_json
from tracer.outputs.exporters import Exporter, Target
from tracer.outputs.lives import lives

MESSAGES = {
    "Trace": {"packet": (1, "repeated TracePacket")},
    "TracePacket": {
        "clock_snapshot": (6, "ClockSnapshot"),
        "timestamp": (8, "uint64"),
        "trusted_packet_sequence_id": (10, "uint32"),
        "track_event": (11, "TrackEvent"),
        "sequence_flags": (13, "uint32"),
        "timestamp_clock_id": (58, "uint32"),
        "track_descriptor": (60, "TrackDescriptor"),
    },
    "ClockSnapshot": {"clocks": (1, "repeated Clock")},
    "Clock": {"clock_id": (1, "uint32"), "timestamp": (2, "uint64")},
    "TrackDescriptor": {
        "uuid": (1, "uint64"),
        "name": (2, "string"),
        "parent_uuid": (5, "uint64"),
    },
    "TrackEvent": {
        "debug_annotations": (4, "repeated DebugAnnotation"),
        "type": (9, "int32"),
        "track_uuid": (11, "uint64"),
        "categories": (22, "repeated string"),
        "name": (23, "string"),
        "flow_ids": (47, "repeated fixed64"),
        "terminating_flow_ids": (48, "repeated fixed64"),
    },
    "DebugAnnotation": {"legacy_json_value": (9, "string"), "name": (10, "string")},
}
REALTIME, BOOTTIME = 1, 6  # BuiltinClock
SLICE_BEGIN, SLICE_END, INSTANT = 1, 2, 3  # TrackEvent.Type
INCREMENTAL_STATE_CLEARED = 1
SEQUENCE = 1
FLUSH_BYTES = 1 << 18


class PerfettoExport:
    def __init__(self, target: Target) -> None:
        self._messages = build_messages(MESSAGES, "ktrace.perfetto")
        self._target = target
        self._tracks: dict[tuple[str | None, str | None], tuple[int, str]] = {}
        self._flows = 0
        self._pending = bytearray()
        self._started = False

    def event(self, event: Event) -> None:
        target = self._target
        if not self._started:
            self._start(event.boot_ns)
        name = target.sentence(event)
        told = to_json(event, target.clock, target.node).decode().rstrip()
        about = {"name": "event", "legacy_json_value": told}
        to_track = self._track(event.place)
        from_track = self._track(event.by_place) if event.by or event.by_place else None
        flow = {}
        if from_track is not None:
            self._flows += 1
            self._instant(event, f"→ {name}", from_track, flow_ids=[self._flows])
            flow = {"terminating_flow_ids": [self._flows]}
        self._instant(event, name, to_track, debug_annotations=[about], **flow)

    def flush(self) -> None:
        if len(self._pending) >= FLUSH_BYTES:
            self._write()

    def close(self) -> None:
        self._draw_lives()
        self._write()

    def _draw_lives(self) -> None:
        """For the containers with a track. The slice of a container that still runs has no end."""
        tracks = {id_: named for (_, id_), named in self._tracks.items() if id_ is not None}
        for id_, began, ended in lives(self._target.places()):
            if id_ in tracks:
                track, name = tracks[id_]
                self._on(track, began, SLICE_BEGIN, name=name, categories=["container"])
                if ended is not None:
                    self._on(track, ended, SLICE_END)

    def _write(self) -> None:
        self._target.out.write(self._pending)
        self._pending.clear()

    def _start(self, boot_ns: int) -> None:
        """Maps boot time to wall time for the UI."""
        self._started = True
        real = max(0, boot_ns + self._target.clock.offset_ns)
        clocks = [
            {"clock_id": BOOTTIME, "timestamp": boot_ns},
            {"clock_id": REALTIME, "timestamp": real},
        ]
        self._packet(clock_snapshot={"clocks": clocks}, sequence_flags=INCREMENTAL_STATE_CLEARED)

    def _instant(self, event: Event, name: str, track: int, **more: Any) -> None:
        self._on(track, event.boot_ns, INSTANT, categories=[event.kind], name=name, **more)

    def _on(self, track: int, boot_ns: int, type_: int, **more: Any) -> None:
        self._packet(
            timestamp=boot_ns,
            timestamp_clock_id=BOOTTIME,
            track_event={"type": type_, "track_uuid": track, **more},
        )

    def _track(self, place: Place | None) -> int:
        """The container's track, below its pod's; else the pod's track; else the node's."""
        pod = place.pod if place else None
        container = place.container if place else None
        uid, id_ = pod.uid if pod else None, container.id if container else None
        if pod is None and container is None:
            return self._named(None, None, self._target.node or "node", None)
        parent = None
        if pod:
            name = pod.title
            parent = self._named(uid, None, name, None)
        if container is None or id_ is None:
            return parent or 0
        return self._named(uid, id_, container.name or id_[:12], parent)

    def _named(self, uid: str | None, id_: str | None, name: str, parent: int | None) -> int:
        """Describes the track when it is new, and again when its name has become known."""
        track, known = self._tracks.get((uid, id_), (len(self._tracks) + 1, None))
        if known != name:
            self._tracks[uid, id_] = track, name
            descriptor = {"uuid": track, "name": name}
            if parent:
                descriptor["parent_uuid"] = parent
            self._packet(track_descriptor=descriptor)
        return track

    def _packet(self, **fields: Any) -> None:
        packet = {"trusted_packet_sequence_id": SEQUENCE, **fields}
        self._pending += self._messages["Trace"](packet=[packet]).SerializeToString()


EXPORTER = Exporter("a trace for ui.perfetto.dev", ".perfetto-trace", True, PerfettoExport)
