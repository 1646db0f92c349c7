# SPDX-License-Identifier: Apache-2.0
"""Show how processes end, with the exit code in words.

Process exits: exit code or signal, in words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

from tracer.decode.exitcodes import describe_exit_code, describe_signal_death, split_status
from tracer.decode.signals import signal_name
from tracer.model.event import Event, Process
from tracer.model.summary import summary
from tracer.probes import AttachPoint, Decode, Metric, Probe, Stream
from tracer.probes.columns import CONTAINER, POD, Column, ancestry_chain, exe, process_name

if TYPE_CHECKING:
    from tracer.identity.resolver import Resolver


class Signal(TypedDict):
    number: int
    name: str


class ExitBody(TypedDict):
    process: Process
    exit_code: int | None
    signal: Signal | None
    core_dumped: bool
    container_exit: bool | None
    meaning: str


def is_exit(event: Event) -> TypeGuard[Event[ExitBody]]:
    return event.kind == "exit"


def _decoder(stream: Stream) -> dict[str, Decode]:
    return {"exit": Decoder(stream.resolver).end}


class Decoder:
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._body_bytes = 0

    def end(self, record: Any) -> Event[ExitBody]:
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        code, number, dumped = split_status(record.status)
        body: ExitBody = {
            "process": process,
            "exit_code": code,
            "signal": None if number is None else {"number": number, "name": signal_name(number)},
            "core_dumped": dumped,
            "container_exit": is_container_init(process),
            "meaning": describe_exit_code(code)
            if code is not None
            else describe_signal_death(number or 0, dumped),
        }
        event = Event("exit", record.time, process, None, body, body_bytes=self._body_bytes)
        self._body_bytes = self._body_bytes or event.body_size
        return event


def is_container_init(process: Process) -> bool | None:
    """Whether the process was the container's first one. None if unknown: in a pid namespace that
    several containers share, unless the runtime has reported the init's pid."""
    container, number = process.container, process.pid_in_pod
    if container is None or number is None:
        return None
    if number == 1 and process.pid_level:
        return True
    init = process.init_place
    if init is not None and init.identity.container_id == container.id:
        return False
    if container.init_pid is not None:
        return process.pid == container.init_pid
    return None


def _code(event: Event[ExitBody]) -> str:
    """The number that Kubernetes shows."""
    signal = event.body["signal"]
    return str(128 + signal["number"] if signal else event.body["exit_code"])


def _init(event: Event[ExitBody]) -> str | None:
    return {True: "init", False: "child", None: None}[event.body["container_exit"]]


def _summary(event: Event[ExitBody]) -> str:
    return f"{process_name(event.about)} ended, {event.body['meaning']}"


def _container_exit(event: Event[ExitBody]) -> str | None:
    return {True: "true", False: "false", None: None}[event.body["container_exit"]]


def _class(event: Event[ExitBody]) -> str:
    code = event.body["exit_code"]
    if code is None:
        return "signal"
    return {0: "success", 126: "cannot_execute", 127: "cannot_execute"}.get(code, "error")


def _alarm(event: Event[ExitBody]) -> bool:
    """The end of a sandbox's pause is normal: a signal ends it with each pod. An unusual sender
    makes the signal event stand out."""
    container = event.about.container if event.about else None
    fine = ("0", "137", "143") if container and container.is_sandbox else ("0",)
    return bool(event.body["container_exit"]) and _code(event) not in fine


PROBE: Probe[ExitBody] = Probe(
    name="exits",
    object="exits",
    help=summary(__doc__),
    examples=(
        "ktrace exits                     every process of every pod that ends",
        "ktrace exits -p web -c app       one container",
        "ktrace exits -o json | jq 'select(.container_exit)'",
    ),
    attach_points=(
        AttachPoint("tp/sched/sched_process_exit", ("on_exit_undisturbed",)),
        AttachPoint("tp_btf/sched_process_exit", ("on_sched_process_exit",)),
    ),
    decoder=_decoder,
    bodies={"exit": ExitBody},
    whose={"exit": "process_process"},
    columns=(
        Column("PROCESS", lambda e: process_name(e.about), 14, 23),
        Column("CODE", _code, 4, 4),
        Column("MEANING", lambda e: e.body["meaning"], 12, 60, 1),
        Column("WAS", _init, 5, 5, 3),
        POD,
        CONTAINER,
        Column("EXE", lambda e: exe(e.about), 10, 40, 6, wide=True),
        Column("ANCESTRY", lambda e: ancestry_chain(e.about), 10, 120, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    repeating=frozenset(("exit",)),
    shorthand=lambda words: re.sub(r"\bcode\b", "exit_code", words),
    metric=Metric(
        "exits",
        "Processes that ended; with the first process of a container the container ends.",
        {"class": _class, "container_exit": _container_exit},
    ),
)
