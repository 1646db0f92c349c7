# SPDX-License-Identifier: Apache-2.0
"""Show whom the OOM killer kills, and whose limit was hit.

OOM kills: the victim, the limit, and the use of the memory.

`decoder` joins three sources in one event: the kernel's event for the kill (probes/oom.bpf.c), the
members of a group that dies as a whole, and the kernel log's report of the same kill (`companion`).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracer.kernel import limits
from tracer.kernel.kmsg import KernelLog
from tracer.model.event import Event
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.model.units import size
from tracer.probes import Alike, AttachPoint, Companion, Metric, Options, Probe
from tracer.probes.columns import CONTAINER, POD, Column, ancestry_chain, exe, process_name
from tracer.probes.oom.decoder import Facts, KillBody, decoders, limit_owner


def _cause(event: Event[KillBody]) -> str:
    body = event.body
    if body["scope"] == "system":
        return "the node is out of memory"
    if body["scope"] is None:
        return "out of memory"
    limit = size(body["limit_bytes"])
    whose = limit_owner(body) or "cgroup"
    if whose == "other":
        return f"limit {limit or 'of memory'} of {body['cgroup_path']} reached"
    return f"{whose} limit {limit} reached" if limit else f"{whose} limit reached"


def _summary(event: Event[KillBody]) -> str:
    line = f"{process_name(event.about)} killed: {_cause(event)}"
    anon = size(_facts(event)["anon_bytes"])
    if anon:
        line += f", {anon} anonymous"
    if members := event.body["members"]:
        line += f", and {len(members)} more of its group"
    return line


def _facts(event: Event[KillBody]) -> Facts:
    return event.body["victim"].facts


def _was(event: Event[KillBody]) -> str | None:
    return {True: "init", False: "child", None: None}[_facts(event)["is_container_init"]]


def _limit_word(event: Event[KillBody]) -> str | None:
    scope = event.body["scope"]
    return "node" if scope == "system" else limit_owner(event.body) or scope


def _grouping(event: Event[KillBody]) -> Alike:
    return Alike("oom", (event.body["victim"].pid, event.body["order"]))


def _alarm(event: Event[KillBody]) -> bool:
    return bool(event.place and (event.place.container or event.place.pod))


_NOT_IN_LOG = (
    "limit, usage, order, flags and whose limit it was, where the kernel log cannot be read or the"
    " kernel keeps its report back (it prints ten in five seconds)"
)


_ONLY_IN_LOG = "the largest processes of the cgroup"

# Interrupts raise signals of timers, but no OOM kills.
_NESTED = {"on_oom_signal": ""}


def _unread(what: str) -> tuple[str, ...]:
    """The facts that are missing if the kernel log cannot be read."""
    try:
        KernelLog().close()
    except OSError as error:
        return (f"{what}, because the kernel log cannot be read: {limits.reason(error)}",)
    return ()


def _log(schemas: Mapping[str, Schema], _map_of: Any) -> Companion:
    from tracer.probes.oom.companion import LogCompanion

    return LogCompanion(schemas)


@dataclass(frozen=True)
class KillOptions(Options):
    def settings(self, selection: Selection) -> dict[str, int]:
        return {"kt_page_size": mmap.PAGESIZE}


PROBE: Probe[KillBody] = Probe(
    name="oom",
    object="oom",
    help=summary(__doc__),
    examples=(
        "ktrace oom                       every pod",
        "ktrace oom -p web -o wide        one pod, with what its memory was used for",
        "ktrace oom -o json | jq 'select(.limit_of == \"pod\")'",
        "ktrace trace oom,signals,exits   from the kill to the container's end",
    ),
    attach_points=(
        AttachPoint(
            "fentry/oom_kill_process",
            ("on_oom_fentry", "on_oom_fexit", "on_oom_signal", "on_mark_victim"),
            companion=_log,
            lacks=lambda: _unread(_ONLY_IN_LOG),
            nested=_NESTED,
        ),
        AttachPoint(
            "kprobe/oom_kill_process",
            ("on_oom_kprobe", "on_oom_kretprobe", "on_oom_signal", "on_mark_victim"),
            companion=_log,
            lacks=lambda: _unread(_ONLY_IN_LOG),
            nested=_NESTED,
        ),
        AttachPoint(
            "tp_btf/mark_victim",
            ("on_oom_signal", "on_mark_victim"),
            (_NOT_IN_LOG,),
            _log,
            lambda: _unread(f"whose limit it was, and {_ONLY_IN_LOG}"),
            nested=_NESTED,
        ),
    ),
    decoder=decoders,
    bodies={"oom": KillBody},
    whose={"oom": "victim_process"},
    state={"gfp_names": (), "oom_unread": ()},
    columns=(
        Column("VICTIM", lambda e: process_name(e.about), 14, 23),
        Column("LIMIT", lambda e: size(e.body["limit_bytes"]), 8, 8, 2),
        Column("OF", _limit_word, 9, 9, 3),
        Column("ANON", lambda e: size(_facts(e)["anon_bytes"]), 8, 8, 4),
        Column("WAS", _was, 5, 5, 3),
        POD,
        CONTAINER,
        Column("TRIGGER", lambda e: process_name(e.by), 14, 23, 6),
        Column("FILE", lambda e: size(_facts(e)["file_bytes"]), 8, 8, 6, wide=True),
        Column("SHMEM", lambda e: size(_facts(e)["shmem_bytes"]), 8, 8, 6, wide=True),
        Column("ADJ", lambda e: str(_facts(e)["oom_score_adj"]), 5, 5, 6, wide=True),
        Column("ORDER", lambda e: _number(e.body["order"]), 5, 5, 6, wide=True),
        Column("GFP", lambda e: _joined(e.body["gfp_flags"]), 10, 40, 6, wide=True),
        Column("EXE", lambda e: exe(e.about), 10, 40, 6, wide=True),
        Column("CGROUP", lambda e: e.body["cgroup_path"], 10, 60, 6, wide=True),
        Column("ANCESTRY", lambda e: ancestry_chain(e.about), 10, 120, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    options=KillOptions,
    metric=Metric(
        "oom_kills",
        "Processes that the OOM killer killed.",
        {"scope": lambda e: e.body["scope"], "limit_of": lambda e: e.body["limit_of"]},
        lambda e: 1 + len(e.body["members"]),
    ),
)


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _joined(names: list[str] | None) -> str | None:
    return None if names is None else "|".join(names)
