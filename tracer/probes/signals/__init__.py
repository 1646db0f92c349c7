# SPDX-License-Identifier: Apache-2.0
"""Show who sends which signal to whom.

Signals with sender and target, at the moment the kernel generates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

from tracer.decode.signals import RESULTS, SIGRTMAX, code_name, parse_signals, signal_name
from tracer.kernel.bpf_object import shipped
from tracer.model.event import Event, Process
from tracer.model.origin import origin_of, suspicious
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.probes import Alike, AttachPoint, Decode, Metric, Options, Probe, Stream, option
from tracer.probes.columns import (
    CONTAINER,
    POD,
    Column,
    ancestry_chain,
    exe,
    pod_name,
    process_name,
)
from tracer.probes.exits import is_container_init

if TYPE_CHECKING:
    from tracer.identity.resolver import Resolver

# Signals that language runtimes and terminals send as plumbing, many times a second.
PLUMBING = ("CHLD", "URG", "WINCH", "PROF")
# Signals that without a handler do nothing, or stop a process and let it continue.
HARMLESS = frozenset(
    ("SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
)
# Words for `enum kt_target_state` in probes/signals.bpf.c.
_STATES = {
    "KT_RUNNING": "running",
    "KT_STOPPED": "stopped",
    "KT_DUMPING_CORE": "dumping_core",
    "KT_DYING": "dying",
}


class Signal(TypedDict):
    number: int
    name: str
    code: str
    result: str | None


class SystemCall(TypedDict):
    number: int
    name: str | None
    machine: str | None


class _WhereTold(TypedDict, total=False):
    target_state: str
    call: SystemCall


class SignalBody(_WhereTold):
    signal: Signal
    origin: str | None
    sender: Process | None
    target: Process


def is_signal(event: Event) -> TypeGuard[Event[SignalBody]]:
    return event.kind == "signal"


def _decoder(stream: Stream) -> dict[str, Decode]:
    return {"signal": Decoder(stream.resolver).signal}


class Decoder:
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._states = shipped("signals").words("kt_target_state", _STATES)
        self._body_bytes = 0

    def signal(self, record: Any) -> Event[SignalBody]:
        resolver = self._resolver
        target = resolver.process(record.target_process, record.target_pid, record.target_tid)
        sender = None
        if not record.from_kernel:
            sender = resolver.process(record.sender_process, record.sender_pid, record.sender_tid)
        body: SignalBody = {
            "signal": _signal(record.signal, record.code, record.result),
            "origin": origin_of(sender, target) if sender else "kernel",
            "sender": sender,
            "target": target,
        }
        state = getattr(record, "target_state", 0)  # older recordings have none
        word = self._states.get(state)
        if word is not None:
            body["target_state"] = word
        if state and record.call_arch:
            body["call"] = _call(record.call_arch, record.call)
        event = Event("signal", record.time, target, sender, body, body_bytes=self._body_bytes)
        self._body_bytes = self._body_bytes or event.body_size
        return event


def _call(arch: int, number: int) -> SystemCall:
    from tracer.decode import syscalls

    machine = syscalls.MACHINES.get(arch)
    return {"number": number, "name": syscalls.name(machine or "", number), "machine": machine}


@lru_cache(maxsize=1024)
def _signal(number: int, code: int, result: int) -> Signal:
    return {
        "number": number,
        "name": signal_name(number),
        "code": code_name(number, code),
        "result": RESULTS[result] if result < len(RESULTS) else None,
    }


@dataclass(frozen=True)
class SignalOptions(Options):
    signal: str | None = option(
        None,
        f"Only these signals; default: all but {', '.join(PLUMBING)}; 'all' for every one.",
        "NAME[,NAME…]",
    )

    def settings(self, selection: Selection) -> dict[str, int]:
        if self.signal is not None:
            wanted = parse_signals(self.signal)
        else:
            wanted = set(range(1, SIGRTMAX + 1)) - parse_signals(",".join(PLUMBING))
        return {"kt_signal_mask": sum(1 << number - 1 for number in wanted)}


def _sender(event: Event[SignalBody]) -> str:
    if event.body["origin"] == "kernel":
        return "kernel"
    return process_name(event.by) or "?"


def _summary(event: Event[SignalBody]) -> str:
    signal = event.body["signal"]
    result = "" if signal["result"] == "delivered" else f" ({signal['result']})"
    return f"{signal['name']} from {_sender(event)} to {process_name(event.about)}{result}"


def _alarm(event: Event[SignalBody]) -> bool:
    """Whether something in a container is killed, the sender is unknown, or the sender's program
    hides its file. A runtime's kill of a sandbox is no alarm, because every pod ends so."""
    sender = event.by
    container = event.about.container if event.about else None
    routine = container and container.is_sandbox and event.body["origin"] == "runtime"
    return (
        (event.body["signal"]["name"] == "SIGKILL" and bool(container) and not routine)
        or (sender is not None and sender.comm is None)
        or (sender is not None and suspicious(sender))
    )


def _grouping(event: Event[SignalBody]) -> Alike:
    body, signal = event.body, event.body["signal"]
    target, sender = body["target"], body["sender"]
    kind = f"{signal['number']} {signal['code']} {signal['result']} {body.get('target_state')}"
    return Alike(
        ("signal", body["origin"], is_container_init(target), signal["name"] in HARMLESS),
        # text, because Python keeps its hash
        f"{kind} {target.pid} {sender.pid if sender else 0}",
    )


def _uid(event: Event[SignalBody]) -> str | None:
    return None if event.by is None or event.by.uid is None else str(event.by.uid)


def _sender_pod(event: Event[SignalBody]) -> str | None:
    return pod_name(event.by_place) or event.body["origin"]


def _argv(process: Process | None) -> str | None:
    return " ".join(process.argv) if process and process.argv else None


PROBE: Probe[SignalBody] = Probe(
    name="signals",
    object="signals",
    help=summary(__doc__),
    examples=(
        "ktrace signals                         everything that pods send or receive",
        "ktrace signals -p web -o wide          signals to pod web, with the sender's ancestry",
        "ktrace signals -n shop --signal KILL,TERM",
        "ktrace signals --all --signal all      the whole node, also what runtimes use as plumbing",
        "ktrace signals -o json | jq .sender.exe",
    ),
    attach_points=(AttachPoint("tp_btf/signal_generate", ("on_signal_generate",)),),
    decoder=_decoder,
    bodies={"signal": SignalBody},
    whose={"signal": "target_process"},
    columns=(
        Column("SIGNAL", lambda e: e.body["signal"]["name"], 7, 11),
        Column("SENDER", _sender, 13, 23),
        Column("FROM", _sender_pod, 7, 36, 4),
        Column("TARGET", lambda e: process_name(e.about), 13, 23, 2),
        POD,
        CONTAINER,
        Column("RESULT", lambda e: e.body["signal"]["result"], 9, 15, 3),
        Column("CODE", lambda e: e.body["signal"]["code"], 8, 12, 6, wide=True),
        Column("UID", _uid, 5, 10, 6, wide=True),
        Column("EXE", lambda e: exe(e.by), 10, 40, 6, wide=True),
        Column("ARGV", lambda e: _argv(e.by), 10, 40, 6, wide=True),
        Column("ANCESTRY", lambda e: ancestry_chain(e.by), 10, 120, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    repeating=frozenset(("signal",)),
    grouping=_grouping,
    options=SignalOptions,
    shorthand=lambda names: f"signal.number in {sorted(parse_signals(names))}",
    metric=Metric(
        "signals",
        "Signals that were generated, by the sender's place relative to the target.",
        {"signal": lambda e: e.body["signal"]["name"], "origin": lambda e: e.body["origin"]},
    ),
)
