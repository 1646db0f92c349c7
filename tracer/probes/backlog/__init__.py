# SPDX-License-Identifier: Apache-2.0
"""Show connections that a full queue turned away.

Connections dropped by a full queue: their owner and port, and the depth of the queue.

The first drop at a queue is one record; after that, one record a second has the count. They come
from the kernel side (probes/backlog.bpf.c), or from `companion` where no function can be probed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypedDict, TypeGuard

from tracer.identity.netns import OBJECT, STATE, PodNetworks
from tracer.kernel.bpf_object import shipped
from tracer.model.address import address_text, with_port
from tracer.model.bounded import keep
from tracer.model.event import Event, Place, Process
from tracer.model.schema import Schema
from tracer.model.summary import summary
from tracer.model.units import counted
from tracer.probes import Alike, AttachPoint, Companion, Decode, Metric, Probe, Stream, Table
from tracer.probes.columns import CONTAINER, Column, pod_name, process_name

# Words for the enumerators of probes/backlog.bpf.c.
QUEUES = {"KT_QUEUE_SYN": "syn", "KT_QUEUE_ACCEPT": "accept", "KT_QUEUE_SOCKET": "socket"}
STAGES = {"KT_STAGE_UNKNOWN": None, "KT_STAGE_SYN": "syn", "KT_STAGE_ACK": "ack"}
SOURCES = {"KT_SOURCE_FUNCTION": "function", "KT_SOURCE_COUNTER": "counter"}

NOUNS = {
    "syn": ("attempt", "SYN queue full"),
    "accept": ("attempt", "accept queue full"),
    "socket": ("packet", "socket backlog full"),
}
MAX_LISTENERS = 16_384


class End(TypedDict):
    """One end of a connection; `pod` is its place if it is in a pod of this node."""

    address: str | None
    port: int | None
    pod: Place | None


def is_backlog_drop(event: Event) -> TypeGuard[Event[DropBody]]:
    return event.kind == "backlog_drop"


class DropBody(TypedDict):
    queue: str
    stage: str | None
    local: End
    remote: End | None
    depth: int | None
    limit: int | None
    process: Process | None
    count: int
    source: str


class Decoder:
    """The record of the process that holds a listening socket comes before its drops."""

    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._networks = stream.shared(PodNetworks)
        self._listeners: dict[int, Process] = {}
        described = shipped("backlog")
        self._queues = described.words("backlog_queue", QUEUES)
        self._stages = described.words("backlog_stage", STAGES)
        self._sources = described.words("backlog_source", SOURCES)
        self._one = described.numbers("backlog_remotes")["KT_REMOTE_ONE"]

    def drop(self, record: Any) -> Event[DropBody]:
        process = self._listeners.get(record.socket) if record.socket else None
        own = process.place if process else None, self._resolver.place(record.cgroup)
        address = record.flow_remote_address if record.remotes == self._one else None
        sides = self._networks.sides(record, address, *own)
        remote = None if address is None else _end(address, record.flow_remote_port, sides.peer)
        local: End = {"address": None, "port": None, "pod": sides.place}
        if record.flow_family:
            local = _end(record.flow_local_address, record.flow_local_port, sides.place)
        body: DropBody = {
            "queue": self._queues[record.queue],
            "stage": self._stages[record.stage],
            "local": local,
            "remote": remote,
            "depth": None if record.depth < 0 else record.depth,
            "limit": None if record.limit < 0 else record.limit,
            "process": process,
            "count": record.count,
            "source": self._sources[record.source],
        }
        again = None if sides.settled else partial(self.drop, record)
        return Event(
            *("backlog_drop", record.time, process, None, body, sides.place, sides.peer),
            doubts=sides.doubts,
            again=again,
        )

    def listener(self, record: Any) -> None:
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        keep(self._listeners, record.socket, process, MAX_LISTENERS)


def _decoder(stream: Stream) -> dict[str, Decode]:
    decoder = Decoder(stream)
    own: dict[str, Decode] = {
        "backlog_drop": decoder.drop,
        "backlog_listener": decoder.listener,
    }
    return own | stream.shared(PodNetworks).decoders


def _end(address: bytes, port: int, place: Place | None) -> End:
    return {"address": address_text(address), "port": port, "pod": place}


def _probed(schemas: Mapping[str, Schema], map_of: Callable[[str], Table]) -> Companion:
    from tracer.probes.backlog.companion import Held

    return Held(schemas, map_of("kt_backlog_held"))


def _counted(schemas: Mapping[str, Schema], _map_of: Any) -> Companion:
    from tracer.probes.backlog.companion import Counted

    return Counted(schemas)


def _local(event: Event[DropBody]) -> str | None:
    return _text(event.body["local"])


def _remote(event: Event[DropBody]) -> str | None:
    end = event.body["remote"]
    return None if end is None else _text(end)


def _text(end: End) -> str | None:
    if end["address"] is None:
        return None
    return with_port(end["address"], end["port"])


def _depth(event: Event[DropBody]) -> str | None:
    depth, limit = event.body["depth"], event.body["limit"]
    if depth is None and limit is None:
        return None
    return "/".join("?" if number is None else str(number) for number in (depth, limit))


def _summary(event: Event[DropBody]) -> str:
    body = event.body
    noun, why = NOUNS[body["queue"]]
    pod = event.place and event.place.pod
    who = (pod and (pod.name or pod.uid)) or body["local"]["address"]
    port = body["local"]["port"]
    who = f"{who or 'a port'}:{port}" if port else f"{who or 'a port'}"
    line = f"{who} turned away {counted(body['count'], noun)}: {why}"
    depth, limit = body["depth"], body["limit"]
    if depth is not None:
        line += f" ({depth} of {limit})" if limit is not None else f" ({depth} bytes)"
    return line


def _grouping(event: Event[DropBody]) -> Alike:
    body = event.body
    return Alike(("backlog_drop", body["queue"]), body["local"]["port"], body["count"])


def _alarm(event: Event[DropBody]) -> bool:
    return event.place is not None and event.place.pod is not None


PROBE: Probe[DropBody] = Probe(
    name="backlog",
    object="backlog",
    help=summary(__doc__),
    examples=(
        "ktrace backlog                   every pod that turns connections away",
        "ktrace backlog -p web -o wide    with the other side and the process that listens",
        "ktrace backlog -o json | jq 'select(.queue == \"accept\") | .local.port'",
    ),
    attach_points=(
        AttachPoint(
            "fentry/tcp_conn_request, tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock, tcp_add_backlog",
            (
                *("fentry_conn_request", "fexit_conn_request"),
                *("fentry_v4_syn_recv_sock", "fentry_v6_syn_recv_sock", "fexit_add_backlog"),
            ),
            companion=_probed,
        ),
        AttachPoint(
            "kprobe/tcp_conn_request, tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock, tcp_add_backlog",
            (
                *("kprobe_conn_request", "kretprobe_conn_request"),
                *("kprobe_v4_syn_recv_sock", "kprobe_v6_syn_recv_sock"),
                *("kprobe_add_backlog", "kretprobe_add_backlog"),
            ),
            companion=_probed,
        ),
        AttachPoint(
            "counters of each network namespace, every second",
            (),
            cannot_tell=(
                "the remote address",
                "the exact time: to the second",
                "whether the accept queue was full at the SYN or at the final ACK",
                "the port of packets that a socket's backlog dropped",
            ),
            companion=_counted,
        ),
    ),
    decoder=_decoder,
    bodies={"backlog_drop": DropBody},
    whose={"backlog_drop": "cgroup"},
    state={**STATE, "backlog_listener": ("socket",)},
    besides=(OBJECT,),
    columns=(
        Column("QUEUE", lambda e: e.body["queue"], 6, 6),
        Column("LOCAL", _local, 9, 47),
        Column("COUNT", lambda e: str(e.body["count"]), 5, 8),
        Column("DEPTH", _depth, 5, 13, 2),
        Column("POD", lambda e: pod_name(e.place), 10, 40, 1),
        CONTAINER,
        Column("STAGE", lambda e: e.body["stage"], 5, 5, 6, wide=True),
        Column("REMOTE", _remote, 10, 47, 6, wide=True),
        Column("PROCESS", lambda e: process_name(e.about), 10, 23, 6, wide=True),
        Column("SOURCE", lambda e: e.body["source"], 7, 8, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    metric=Metric(
        "backlog_drops",
        "Connections that a full queue turned away; of the queue of a socket, packets.",
        {"queue": lambda e: e.body["queue"], "stage": lambda e: e.body["stage"]},
        lambda e: e.body["count"],
    ),
)
