# SPDX-License-Identifier: Apache-2.0
"""Show TCP connects that fail, or that nobody answers.

TCP connects that fail, or that nobody answers: how often they asked, for how long, and whom.
"""

from __future__ import annotations

import errno
from functools import cache, partial
from typing import Any, TypedDict, TypeGuard

from tracer.identity.netns import OBJECT, STATE, PodNetworks
from tracer.kernel.bpf_object import shipped
from tracer.model.address import address_text, with_port
from tracer.model.event import Event, Place, Process
from tracer.model.summary import summary
from tracer.model.units import counted, span
from tracer.probes import Alike, AttachPoint, Decode, Metric, Probe, Stream
from tracer.probes.columns import CONTAINER, Column, pod_name, process_name

# Words for `enum connect_outcome` in probes/connects.bpf.c; a failed one's word is its error's.
OUTCOMES = {
    "KT_CONNECT_FAILED": None,
    "KT_CONNECT_NOT_SENT": "not_sent",
    "KT_CONNECT_UNANSWERED": "unanswered",
    "KT_CONNECT_GIVEN_UP": "given_up",
    "KT_CONNECT_LATE": "late",
}
# What the kernel makes of an answer, icmp_err_convert[] in net/ipv4/icmp.c and tab_unreach[] in
# net/ipv6/icmp.c, and of none.
_ERRORS = {
    errno.ETIMEDOUT: "timeout",
    errno.ECONNREFUSED: "refused",
    errno.ECONNABORTED: "aborted",
    **dict.fromkeys(
        (
            *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET),
            *(errno.EACCES, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPROTO),
        ),
        "unreachable",
    ),
}
NO_LOCAL_PORT = "no_local_port"
RESET, ICMP = "reset", "icmp"
# The number of SYNs at which an attempt is told while it lasts: KT_TOLD_SYNS.
TOLD_SYNS = 3


class End(TypedDict):
    """One end of a connection; `pod` is its place if it is in a pod of this node."""

    address: str | None
    port: int | None
    pod: Place | None


class ConnectBody(TypedDict):
    error: str | None
    errno: str | None
    answer: str | None
    syns: int
    duration_ns: int | None
    local: End
    remote: End
    process: Process | None


def is_connect(event: Event) -> TypeGuard[Event[ConnectBody]]:
    return event.kind == "connect_failure"


class Decoder:
    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._networks = stream.shared(PodNetworks)

    def failure(self, record: Any) -> Event[ConnectBody]:
        resolver, process = self._resolver, None
        if record.process_pid:
            process = resolver.process(
                record.process_process, record.process_pid, record.process_tid
            )
        own = resolver.place(record.cgroup), process.place if process else None
        remote = record.flow_remote_address
        sides = self._networks.sides(record, remote if record.flow_family else None, *own)
        error = _error(record)
        body: ConnectBody = {
            "error": error,
            "errno": errno.errorcode.get(record.error) if record.error else None,
            "answer": _answer(error, bool(record.reset)),
            "syns": record.syns,
            "duration_ns": record.duration if record.timed else None,
            "local": _end(record, "local", sides.place),
            "remote": _end(record, "remote", sides.peer),
            "process": process,
        }
        again = None if sides.settled else partial(self.failure, record)
        return Event(
            *("connect_failure", record.time, process, None, body, sides.place, sides.peer),
            doubts=sides.doubts,
            again=again,
        )


def _decoder(stream: Stream) -> dict[str, Decode]:
    own: dict[str, Decode] = {"connect_failure": Decoder(stream).failure}
    return own | stream.shared(PodNetworks).decoders


@cache
def _outcomes() -> dict[int, str | None]:
    return shipped("connects").words("connect_outcome", OUTCOMES)


def _error(record: Any) -> str | None:
    """A call that fails before it has a port found none: inet_hash_connect()."""
    outcome = _outcomes()[record.outcome]
    if outcome == "not_sent" and not record.flow_local_port:
        return NO_LOCAL_PORT
    return outcome or _ERRORS.get(record.error)


def _answer(error: str | None, reset: bool) -> str | None:
    """The kernel ends an attempt for a reset or for a message of ICMP."""
    if error in ("refused", "unreachable"):
        return RESET if reset else ICMP
    return None


def _end(record: Any, name: str, place: Place | None) -> End:
    if not record.flow_family:
        return {"address": None, "port": None, "pod": place}
    address, port = getattr(record, f"flow_{name}_address"), getattr(record, f"flow_{name}_port")
    return {"address": address_text(address), "port": port or None, "pod": place}


def _text(end: End) -> str | None:
    if end["address"] is None or end["port"] is None:
        return end["address"]
    return with_port(end["address"], end["port"])


def word(error: str | None) -> str:
    """`no local port`; `failed` where the kernel's error has no word."""
    return (error or "failed").replace("_", " ")


def _age(event: Event[ConnectBody]) -> str | None:
    age = event.body["duration_ns"]
    return span(age) if age else None  # it is exact to a millisecond: 0 says nothing


def _summary(event: Event[ConnectBody]) -> str:
    body = event.body
    line = f"connect from {body['local']['address']} to {_text(body['remote'])}: "
    line += {
        "timeout": "timed out",
        "refused": "refused" + (" by ICMP" if body["answer"] == ICMP else ""),
        "unreachable": f"unreachable ({body['errno']})",
        "not_sent": "failed before the first SYN",
        "unanswered": "not answered yet",
        "late": "answered late",
        None: f"failed ({body['errno'] or 'error not known'})",
    }.get(body["error"], word(body["error"]))
    if body["syns"]:
        line += f", {counted(body['syns'], 'SYN')}"
        age = _age(event)
        line += f" in {age}" if age else ""
    return line


def _grouping(event: Event[ConnectBody]) -> Alike:
    """By whom it asks: each attempt has a port of its own. An attempt that was told while it lasted
    is told again at its end, so those are apart."""
    body, remote = event.body, event.body["remote"]
    told = body["syns"] >= TOLD_SYNS
    return Alike(
        ("connect_failure", body["error"], told),
        (remote["address"], remote["port"], body["answer"]),
        fold=True,
    )


def _alarm(event: Event[ConnectBody]) -> bool:
    """Whether a pod's connects are not answered, or find no port."""
    in_pod = event.place is not None and event.place.pod is not None
    return in_pod and event.body["error"] in ("timeout", "unanswered", NO_LOCAL_PORT)


PROBE: Probe[ConnectBody] = Probe(
    name="connects",
    object="connects",
    help=summary(__doc__),
    examples=(
        "ktrace connects                   pods that cannot connect, and to whom",
        "ktrace connects -p shop/web-0     one pod",
        "ktrace connects -o json | jq 'select(.error == \"timeout\") | .remote'",
    ),
    attach_points=(
        AttachPoint(
            "tp_btf/inet_sock_set_state, tcp_retransmit_skb, tcp_receive_reset",
            ("on_set_state", "on_retransmit", "on_reset_of_connect"),
            cannot_tell=("connects that fail before the kernel looks for a port: without a route",),
            nested={
                "on_set_state": "changes of a socket's state in interrupts",
                "on_retransmit": "retransmissions in interrupts",
                "on_reset_of_connect": "",
            },
        ),
    ),
    decoder=_decoder,
    bodies={"connect_failure": ConnectBody},
    whose={"connect_failure": "cgroup"},
    state=STATE,
    besides=(OBJECT,),
    columns=(
        Column("ERROR", lambda e: word(e.body["error"]), 8, 13),
        Column("REMOTE", lambda e: _text(e.body["remote"]), 13, 47),
        Column("SYNS", lambda e: str(e.body["syns"]), 4, 4, 2),
        Column("FOR", _age, 6, 8, 2),
        Column("POD", lambda e: pod_name(e.place), 10, 40, 1),
        Column("PEER", lambda e: pod_name(e.by_place), 10, 40, 4),
        CONTAINER,
        Column("PROCESS", lambda e: process_name(e.about), 10, 23, 5),
        Column("ANSWER", lambda e: e.body["answer"], 6, 6, 6, wide=True),
        Column("LOCAL", lambda e: _text(e.body["local"]), 13, 47, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    metric=Metric(
        "connect_failures",
        "TCP connects that failed, or that nobody answered.",
        {"error": lambda e: e.body["error"], "answer": lambda e: e.body["answer"]},
    ),
)
