# SPDX-License-Identifier: Apache-2.0
"""Show TCP connections that are reset: by whom, and why.

TCP resets, sent and received, with the reason as far as it is known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, TypedDict, TypeGuard

from tracer.identity.netns import OBJECT, STATE, PodNetworks
from tracer.kernel.bpf_object import shipped
from tracer.kernel.btf import kernel_enum
from tracer.model.address import address_text, with_port
from tracer.model.bounded import keep
from tracer.model.event import Event, Place, Process
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.probes import AttachPoint, Decode, Metric, Options, Probe, Stream
from tracer.probes.columns import CONTAINER, Column, pod_name, process_name

# include/net/tcp_states.h
STATES = (
    None,
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE"),
    *("CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"),
)
# Words for `enum cause` in probes/resets.bpf.c: the kernel's own where it has them.
CAUSES = {
    "UNKNOWN": None,
    "NO_SOCKET": "no_socket",
    "UNREAD_DATA": "tcp_abort_on_close",
    "LINGER_ZERO": "so_linger_zero",
    "TIME_WAIT": "tcp_timewait_socket",
    "REFUSED": "connection_refused",
    "LISTENER_CLOSED": "listener_closed",
    "DATA_AFTER_CLOSE": "tcp_abort_on_data",
}
# The kernel's words for no reason, or for several different causes.
VAGUE = ("", "not_specified", "tcp_state")

# Explanations of the less clear names.
MEANINGS = {
    "no_socket": "no such connection",
    "tcp_abort_on_close": "closed with unread data",
    "so_linger_zero": "closed with SO_LINGER 0",
    "tcp_timewait_socket": "connection had ended",
    "connection_refused": "connection refused",
    "listener_closed": "listener closed before accept",
    "tcp_abort_on_data": "data came after close",
    "tcp_abort_on_linger": "peer did not close in time",
    "tcp_abort_on_memory": "out of TCP memory",
    "tcp_keepalive_timeout": "keepalives unanswered",
    "tcp_disconnect_with_data": "disconnected with unsent data",
    "tcp_state": "aborted or disconnected",
    "tcp_old_ack": "old acknowledgement",
    "tcp_too_old_ack": "acknowledgement too old",
    "tcp_ack_unsent_data": "acknowledged what was never sent",
    "tcp_flags": "unexpected TCP flags",
    "tcp_invalid_ack_sequence": "wrong acknowledgement",
    "invalid_syn": "unexpected SYN",
}
CLOSED_PORT = "closed port"

# The flags of TCP's header, the lowest bit first (RFC 9293).
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")

# States in which data may come for a connection that its program has closed.
_HALF_CLOSED = ("FIN_WAIT1", "FIN_WAIT2")
_CLOCK_MONOTONIC_COARSE = 6
# Bound of the duration of one call in the kernel, interrupts included.
_SAME_CALL_NS = 50_000_000
_MAX_SUSPECTS = 256

_PREFIX = "SK_RST_REASON_"


class End(TypedDict):
    """One end of a connection; `pod` is its place if it is in a pod of this node."""

    address: str | None
    port: int | None
    pod: Place | None


class Idle(TypedDict):
    sent_ns: int | None
    received_ns: int | None
    heard_ns: int | None
    ended_ns: int | None


class Carried(TypedDict):
    sent: int
    received: int
    unacknowledged: int


class Traffic(TypedDict, total=False):
    """The connection's earlier traffic; missing in older recordings."""

    idle: Idle | None
    bytes: Carried | None
    answered: list[str] | None


class ResetBody(Traffic):
    direction: str
    reason: str | None
    reason_inferred: bool
    meaning: str | None
    state: str | None
    local: End
    remote: End
    process: Process | None


def is_reset(event: Event) -> TypeGuard[Event[ResetBody]]:
    return event.kind == "tcp_reset"


class Decoder:
    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._networks = stream.shared(PodNetworks)
        # resets that were perhaps not received, by connection
        self._suspects: dict[Any, Event[ResetBody]] = {}

    def reset(self, record: Any) -> Event[ResetBody]:
        event = self._event(record)
        self._take_back(event, record)
        return event

    def _take_back(self, event: Event[ResetBody], record: Any) -> None:
        """Takes back a received reset that was none. On data for a connection that its program has
        closed, the kernel calls tcp_reset() itself and answers with a reset
        (tcp_rcv_state_process()). So one reset was sent, and none received. Both events come from
        the same call."""
        body = event.body
        ends = (body["local"], body["remote"])
        connection = (record.netns, *((end["address"], end["port"]) for end in ends))
        if body["direction"] == "received":
            if body["state"] in _HALF_CLOSED:
                keep(self._suspects, connection, event, _MAX_SUSPECTS)
                if event.again is None:
                    event.again, event.awaits_ns = partial(_as_it_is, event), _SAME_CALL_NS
        elif body["reason"] == "tcp_abort_on_data":
            received = self._suspects.pop(connection, None)
            if received and event.boot_ns - received.boot_ns <= _SAME_CALL_NS:
                received.again = _nothing

    def _event(self, record: Any) -> Event[ResetBody]:
        resolver, process = self._resolver, None
        if record.process_pid:
            process = resolver.process(
                record.process_process, record.process_pid, record.process_tid
            )
        local, remote = record.flow_local_address, record.flow_remote_address
        own = resolver.place(record.cgroup), process.place if process else None
        peer = remote if record.flow_family else None
        sides = self._networks.sides(record, peer, *own)
        reason, inferred = _reason(record.reason, record.cause)
        body: ResetBody = {
            "direction": "sent" if record.sent else "received",
            "reason": reason,
            "reason_inferred": inferred,
            "meaning": _meaning(reason, bool(record.syn)),
            "state": STATES[record.state] if record.state < len(STATES) else None,
            "local": _end(local, record.flow_local_port, record.flow_family, sides.place),
            "remote": _end(remote, record.flow_remote_port, record.flow_family, sides.peer),
            "process": process,
            **_traffic(record),
        }
        again = None if sides.settled else partial(self.reset, record)
        return Event(
            *("tcp_reset", record.time, process, None, body, sides.place, sides.peer),
            doubts=sides.doubts,
            again=again,
        )


def _decoder(stream: Stream) -> dict[str, Decode]:
    own: dict[str, Decode] = {"tcp_reset": Decoder(stream).reset}
    return own | stream.shared(PodNetworks).decoders


def _as_it_is(event: Event) -> Event:
    """`again` of an event that waits for a later one: the event itself."""
    return event


def _nothing() -> None:
    """`again` of an event that turned out to be none."""


def _traffic(record: Any) -> Traffic:
    if not record.looked:
        return {}
    known = bool(record.traffic_known)
    idle: Idle = {
        "sent_ns": record.traffic_sent_ago if known else None,
        "received_ns": record.traffic_received_ago if known else None,
        "heard_ns": record.traffic_heard_ago if known else None,
        "ended_ns": record.ended_ago or None,
    }
    carried: Carried = {
        "sent": record.traffic_bytes_sent,
        "received": record.traffic_bytes_received,
        "unacknowledged": record.traffic_unacknowledged,
    }
    flags = [name for bit, name in enumerate(_FLAGS) if record.answered >> bit & 1]
    return {
        "idle": idle if any(ns is not None for ns in idle.values()) else None,
        "bytes": carried if known else None,
        "answered": flags or None,
    }


def _end(address: bytes, port: int, family: int, place: Place | None) -> End:
    if not family:
        return {"address": None, "port": None, "pod": place}
    return {"address": address_text(address), "port": port, "pod": place}


@cache
def _causes() -> dict[int, str | None]:
    return shipped("resets").words("cause", CAUSES)


@lru_cache(maxsize=256)
def _reason(told: bytes, cause: int) -> tuple[str | None, bool]:
    """The kernel's reason, or the inferred one if the kernel's is vague; and whether it is
    inferred."""
    name = told.split(b"\0", 1)[0].decode("ascii", "replace").lower()
    inferred = _causes().get(cause)
    if name in VAGUE and inferred:
        return inferred, True
    return (None if name in VAGUE[:2] else name), False


def _meaning(reason: str | None, syn: bool) -> str | None:
    if reason is None:
        return None
    if reason == "no_socket" and syn:
        return CLOSED_PORT
    return MEANINGS.get(reason) or reason.removeprefix("tcp_").replace("_", " ")


def reason_table(names: Mapping[str, int]) -> bytes:
    """The content of `kt_reset_reasons`: the kernel's names without their prefix, by
    number."""
    described = shipped("resets")
    table = bytearray(described.settings["kt_reset_reasons"][1])
    room = described.schemas["tcp_reset"].room("reason")
    for name, number in reversed([*names.items()]):  # of several with one number, the first name
        word, at = name.removeprefix(_PREFIX).encode(), number * room
        if 0 <= at < len(table) and len(word) < room:
            table[at : at + room] = bytes(room)
            table[at : at + len(word)] = word
    return bytes(table)


@dataclass(frozen=True)
class ResetOptions(Options):
    def settings(self, selection: Selection) -> dict[str, int]:
        reasons = reason_table(kernel_enum("sk_rst_reason"))
        return {
            "kt_reset_reasons": int.from_bytes(reasons, "little"),
            "kt_tick": _tick_ns(),
            "kt_whosever": int("tcp_reset" in selection.besides),
        }


def _tick_ns() -> int:
    """The tick of the kernel's timers: the resolution of the clock that only they advance."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


def _point(name: str, *programs: str, cannot_tell: tuple[str, ...] = ()) -> AttachPoint:
    return AttachPoint(name, (*programs, "on_receive_reset"), cannot_tell)


def _text(end: End) -> str | None:
    return None if end["address"] is None else with_port(end["address"], end["port"])


def _word(event: Event[ResetBody]) -> str | None:
    meaning = event.body["meaning"]
    return f"{meaning}?" if meaning and event.body["reason_inferred"] else meaning


def _summary(event: Event[ResetBody]) -> str:
    body = event.body
    local, remote = _text(body["local"]), _text(body["remote"])
    way = f"sent by {local} to" if body["direction"] == "sent" else f"received by {local} from"
    return f"reset {way} {remote}, {body['meaning'] or 'reason unknown'}"


def _alarm(event: Event[ResetBody]) -> bool:
    """Whether a pod's port is closed, a pod is refused, or the kernel has no memory for TCP."""
    if event.body["reason"] == "tcp_abort_on_memory":
        return True
    in_pod = event.place is not None and event.place.pod is not None
    return in_pod and (
        event.body["meaning"] == CLOSED_PORT or event.body["reason"] == "connection_refused"
    )


_NO_REASONS = ("the kernel's own reasons",)
WITHOUT_SOCKET = "resets without a socket: those for a closed port"

PROBE: Probe[ResetBody] = Probe(
    name="resets",
    object="resets",
    help=summary(__doc__),
    examples=(
        "ktrace resets                    resets that pods send or receive",
        "ktrace resets -p shop/web-0      one pod, and who is on the other side",
        "ktrace resets -o json | jq 'select(.meaning == \"closed port\") | .local'",
    ),
    attach_points=(
        _point("tp_btf/tcp_send_reset with reason", "on_send_reset_with_reason"),
        _point(
            "fentry/tcp_v4_send_reset, fentry/tcp_v6_send_reset",
            *("on_v4_send_reset", "on_v6_send_reset", "on_send_reset_by_itself"),
            cannot_tell=_NO_REASONS,
        ),
        _point(
            "kprobe/tcp_v4_send_reset, kprobe/tcp_v6_send_reset",
            *("at_v4_send_reset", "at_v6_send_reset", "on_send_reset_by_itself"),
            cannot_tell=_NO_REASONS,
        ),
        _point(
            "tp_btf/tcp_send_reset",
            "on_send_reset",
            cannot_tell=(*_NO_REASONS, WITHOUT_SOCKET),
        ),
    ),
    decoder=_decoder,
    bodies={"tcp_reset": ResetBody},
    whose={"tcp_reset": "cgroup"},
    state=STATE,
    besides=(OBJECT,),
    columns=(
        Column("RESET", lambda e: e.body["direction"], 5, 8),
        Column("LOCAL", lambda e: _text(e.body["local"]), 13, 47),
        Column("REMOTE", lambda e: _text(e.body["remote"]), 13, 47, 3),
        Column("REASON", _word, 9, 32),
        Column("POD", lambda e: pod_name(e.place), 10, 40, 1),
        Column("PEER", lambda e: pod_name(e.by_place), 10, 40, 4),
        CONTAINER,
        Column("PROCESS", lambda e: process_name(e.about), 10, 23, 5),
        Column("STATE", lambda e: e.body["state"], 6, 12, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    options=ResetOptions,
    metric=Metric(
        "tcp_resets",
        "TCP connections that were reset or refused.",
        {"direction": lambda e: e.body["direction"], "reason": lambda e: e.body["reason"]},
    ),
)
