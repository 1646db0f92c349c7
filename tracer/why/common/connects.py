# SPDX-License-Identifier: Apache-2.0
"""Connects that failed: picking them, and how verdicts describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.identity.netns import owner_of
from tracer.model.units import span
from tracer.probes.backlog import DropBody
from tracer.probes.columns import pod_name
from tracer.probes.connects import ICMP, TOLD_SYNS, ConnectBody
from tracer.probes.drops import PacketBody
from tracer.why.common.drops import RESTS_ON as DROPS
from tracer.why.common.drops import By, by_rule, by_whom, is_by_nftables
from tracer.why.common.phrases import address, shortened, times
from tracer.why.entry import Entry
from tracer.why.story import ANY_PROBE, Story

RESTS_ON = frozenset(("connects",))

Remote = tuple[str | None, int | None]
SEVERAL: Remote = (None, None)


def connects(story: Story, *errors: str) -> list[Entry[ConnectBody]]:
    found: list[Entry[ConnectBody]] = story.of("connect_failure")
    return [entry for entry in found if entry.body["error"] in errors]


def remote(entry: Entry[ConnectBody]) -> Remote:
    """Without an address if it is not the same for all."""
    if entry.folded:
        return SEVERAL
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


def dropped(story: Story, found: Sequence[Entry[ConnectBody]]) -> list[Entry[PacketBody]]:
    """The drops that were seen of packets to or from the same: those of this story, and in the
    networks of others."""
    remotes = {entry.body["remote"]["address"] for entry in found}
    every: list[Entry[PacketBody]] = story.of("packet_drop")
    own = [
        entry
        for entry in every
        if entry.body["protocol"] in ("tcp", None)
        and remotes & {entry.body["source"]["address"], entry.body["destination"]["address"]}
    ]
    elsewhere = (
        drop
        for entry in found
        for drop in (story.dropped.packets(entry, story.place) if story.dropped else ())
    )
    return [*own, *dict.fromkeys(elsewhere)]


def turned_away(story: Story, found: Sequence[Entry[ConnectBody]]) -> list[Entry[DropBody]]:
    """The full queues of this node at which their SYNs ended."""
    return [q for entry in found for q in (story.dropped.queues(entry) if story.dropped else ())]


def of_theirs(story: Story, drops: Sequence[Entry[PacketBody]]) -> str:
    """`; this node dropped 23 packets of theirs (no route; a rule of nftables (INPUT) in the
    network of shop/db-0)`; empty without drops."""
    if not drops:
        return ""
    whys = dict.fromkeys(_why(story, entry) for entry in drops)
    packets = times(sum(entry.count for entry in drops), "packet")
    return f"; this node dropped {packets} of theirs ({'; '.join(whys)})"


def _why(story: Story, drop: Entry[PacketBody]) -> str:
    body, place, likely = drop.event.body, drop.event.place, ""
    why = body["meaning"] or "reason unknown"
    if body["reason"] == "netfilter_drop":
        by = by_whom(drop)
        why = by_rule(drop) if by is By.RULE else f"connection tracking: {by.value}"
        likely = "" if is_by_nftables(body) else ", likely"
    elsewhere = place is not None and owner_of(place) not in (None, owner_of(story.place))
    pod = pod_name(place) if elsewhere else None
    return f"{why}{likely}{f', in the network of {pod}' if pod else ''}"


def of_queues(queues: Sequence[Entry[DropBody]]) -> str:
    """`; the accept queue of shop/db-0 was full`; empty without any."""
    names = dict.fromkeys(
        f"the {'SYN' if queue.body['queue'] == 'syn' else queue.body['queue']} queue of"
        f" {pod_name(queue.event.place) or 'the other side'} was full"
        for queue in queues
    )
    return "".join(f"; {name}" for name in names)


def none_seen(story: Story, found: Sequence[Entry[ConnectBody]]) -> str:
    """`; no drop of theirs seen on this node`, if they would have been seen."""
    seen = story.dropped
    if seen is None or story.traced is None or not story.traced >= DROPS:
        return ""
    lost = any(loss.probe in (*DROPS, ANY_PROBE) for loss in story.losses)
    if lost or not all(seen.saw_all(entry, story.began_ns) for entry in found):
        return ""
    return "; no drop of theirs seen on this node"


def are_told(story: Story, drop: Entry[PacketBody]) -> bool:
    """Whether connects that this drop made fail tell of it."""
    remotes = {entry.body["remote"]["address"] for entry in connects(story, "unreachable")}
    return drop.body["protocol"] == "tcp" and drop.body["destination"]["address"] in remotes


def to(found: Iterable[Entry[ConnectBody]]) -> str:
    """Whom they asked: `10.96.0.10:53, 198.18.0.3:80 (shop/db-0)`."""
    found = list(found)
    return shortened(dict.fromkeys(_name(entry) for entry in found), found)


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
    # Attempts to one remote end may be folded, and their ends not, or the other way round.
    ended = -sum(count for count in waiting.values() if count < 0) if SEVERAL in waiting else 0
    for end, count in waiting.items():
        taken = max(0, min(count, ended))
        waiting[end] = count - taken
        ended -= taken
    return {end: count for end, count in waiting.items() if count > 0}
