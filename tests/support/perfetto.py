# SPDX-License-Identifier: Apache-2.0
"""Reads a Perfetto trace with Perfetto's own message definitions."""

from __future__ import annotations

from pathlib import Path

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent


def slices(trace: Path) -> dict[str, tuple[int, int | None]]:
    """Begin and end of each slice in nanoseconds since boot, by its name, which must equal its
    track's; None for a slice without an end."""
    read = Trace()
    read.ParseFromString(trace.read_bytes())
    tracks: dict[int, str] = {}
    found: dict[str, tuple[int, int | None]] = {}
    for packet in read.packet:
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor.name
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            assert event.name == tracks[event.track_uuid]
            assert event.name not in found
            found[event.name] = packet.timestamp, None
        elif event.type == TrackEvent.TYPE_SLICE_END:
            name = tracks[event.track_uuid]
            begin, end = found[name]
            assert end is None
            found[name] = begin, packet.timestamp
    return found
