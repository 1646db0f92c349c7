# SPDX-License-Identifier: Apache-2.0
"""Connects that failed: picking them, and how verdicts describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.model.units import span
from tracer.probes.columns import pod_name
from tracer.probes.connects import ICMP, TOLD_SYNS, ConnectBody
from tracer.probes.drops import PacketBody
from tracer.why.common.phrases import address, times
from tracer.why.entry import Entry
from tracer.why.story import Story

RESTS_ON = frozenset(("connects",))
MAX_NAMES = 3

Remote = tuple[str | None, int | None]


def connects(story: Story, *errors: str) -> list[Entry[ConnectBody]]:
    found: list[Entry[ConnectBody]] = story.of("connect_failure")
    return [entry for entry in found if entry.body["error"] in errors]


def remote(entry: Entry[ConnectBody]) -> Remote:
    end = entry.body["remote"]
    return end["address"], end["port"]


def by_icmp(story: Story) -> set[Remote]:
    """Whom a message of ICMP answers for. A kernel sends few of them a second, so that of several
    attempts some are not answered."""
    every: list[Entry[ConnectBody]] = story.of("connect_failure")
    return {remote(entry) for entry in every if entry.body["answer"] == ICMP}


def also_waiting(story: Story, found: Iterable[Entry[ConnectBody]]) -> tuple[int, str]:
    """The attempts to the same that ICMP has not answered yet: how many, and in words."""
    remotes = {remote(entry) for entry in found}
    count = sum(number for end, number in still_waiting(story).items() if end in remotes)
    more = f"; {count} more still wait, as a kernel sends few such messages a second"
    return count, more if count else ""


def dropped(story: Story, found: Iterable[Entry[ConnectBody]]) -> list[Entry[PacketBody]]:
    """The drops that were seen of packets to or from the same. Drops elsewhere on the node are not
    in this story."""
    remotes = {entry.body["remote"]["address"] for entry in found}
    every: list[Entry[PacketBody]] = story.of("packet_drop")
    return [
        entry
        for entry in every
        if entry.body["protocol"] in ("tcp", None)
        and remotes & {entry.body["source"]["address"], entry.body["destination"]["address"]}
    ]


def of_theirs(drops: Sequence[Entry[PacketBody]]) -> str:
    """`; this node dropped 23 packets of theirs (no route)`; empty without drops."""
    if not drops:
        return ""
    meanings = dict.fromkeys(entry.body["meaning"] or "reason unknown" for entry in drops)
    packets = times(sum(entry.count for entry in drops), "packet")
    return f"; this node dropped {packets} of theirs ({', '.join(meanings)})"


def are_told(story: Story, drop: Entry[PacketBody]) -> bool:
    """Whether connects that this drop made fail tell of it."""
    remotes = {entry.body["remote"]["address"] for entry in connects(story, "unreachable")}
    return drop.body["protocol"] == "tcp" and drop.body["destination"]["address"] in remotes


def to(found: Iterable[Entry[ConnectBody]]) -> str:
    """Whom they asked: `10.96.0.10:53, 198.18.0.3:80 (shop/db-0)`."""
    names = list(dict.fromkeys(_name(entry) for entry in found))
    return ", ".join(names[:MAX_NAMES]) + (" and others" if len(names) > MAX_NAMES else "")


def _name(entry: Entry[ConnectBody]) -> str:
    pod = pod_name(entry.last.by_place)
    where = address(entry.body["remote"])
    return f"{where} ({pod})" if pod else where


def asked(found: Sequence[Entry[ConnectBody]]) -> str:
    """How often the last of them asked, and for how long."""
    body = max(found, key=lambda entry: entry.last_ns).last.body
    age = body["duration_ns"]
    over = f" in {span(age)}" if age else ""
    return f"{times(body['syns'], 'SYN')}{over}"


def still_waiting(story: Story) -> dict[Remote, int]:
    """The attempts by remote end that were not answered when they were told, and of which no end
    has been told since."""
    waiting: dict[Remote, int] = {}
    for entry in connects(story, "unanswered"):
        waiting[remote(entry)] = waiting.get(remote(entry), 0) + entry.count
    every: list[Entry[ConnectBody]] = story.of("connect_failure")
    for entry in every:
        if entry.body["error"] != "unanswered" and entry.body["syns"] >= TOLD_SYNS:
            waiting[remote(entry)] = waiting.get(remote(entry), 0) - entry.count
    return {end: count for end, count in waiting.items() if count > 0}
