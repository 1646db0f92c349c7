# SPDX-License-Identifier: Apache-2.0
"""Events as a session passes them on, made by hand: a container's story in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.unit.records import ANCESTOR
from tracer import probes
from tracer.decode.exitcodes import describe_exit_code, describe_signal_death
from tracer.decode.signals import NUMBERS, signal_name
from tracer.model.cgroup import CgroupIdentity
from tracer.model.event import Clock, Event, Place, Process
from tracer.model.names import Container, Pod
from tracer.probes.oom.decoder import Facts, Victim
from tracer.why.engine import Explanation, explain_all
from tracer.why.timelines import MAX_LIVES, Timelines

MS = 1_000_000
SECOND = 1000 * MS
MIB = 1 << 20
UID = "5016bc16-7c78-4389-a89c-9c971211370b"
CLOCK = Clock(1_700_000_000 * SECOND)
ALL = frozenset(probes.names())


def place_of(container_id: str | None, name: str | None = "app", uid: str | None = UID) -> Place:
    """A container's cgroup; the pod's own without an id; one of the host without either."""
    identity = CgroupIdentity(uid, container_id, "containerd")
    pod = Pod(uid, "shop", "web-0", {}) if uid else None
    container = Container(container_id, "containerd", name, uid) if container_id else None
    return Place(hash((container_id, uid)) & 0xFFFF, "/a/path", identity, pod, container)


APP, NETWORK, HOST = place_of("a" * 64), place_of(None), place_of(None, uid=None)


def process(
    pid: int,
    comm: str = "app",
    place: Place | None = APP,
    *,
    exe: str | None = None,
    start: int = 2 * SECOND,
    init: bool = False,
    parents: Sequence[tuple[int, str]] = (),
) -> Process:
    return Process(
        pid,
        pid,
        comm,
        exe or f"/bin/{comm}",
        [comm],
        0,
        pid_in_pod=1 if init else 100 + pid,
        pid_level=1,
        start_boot_ns=start,
        place=place,
        init_place=APP,
        ancestors=b"".join(ANCESTOR.pack(pid, name.encode()) for pid, name in parents),
        ancestor=ANCESTOR,
    )


INIT = process(7, init=True)
RUNC = process(900, "runc", HOST, exe="/usr/sbin/runc")
CRON = process(901, "cron", HOST, exe="/usr/sbin/cron", parents=[(33, "sh"), (1, "init")])


class World:
    """Time stands where `at` puts it, in milliseconds, and goes on by one with each event."""

    def __init__(
        self,
        traced: frozenset[str] | None = ALL,
        began: int | None = SECOND,
        most: int = MAX_LIVES,
    ) -> None:
        self.timelines = Timelines(CLOCK, began, traced, both_ends=True, sees_drops=True, most=most)
        self.now = 10_000 * MS

    def at(self, milliseconds: float) -> World:
        self.now = int((10_000 + milliseconds) * MS)
        return self

    def add(self, event: Event) -> Event:
        self.timelines.event(event)
        self.now += MS
        return event

    def signal(
        self,
        name: str,
        origin: str,
        sender: Process | None = None,
        target: Process = INIT,
        *,
        result: str = "delivered",
        code: str = "SI_USER",
        state: str | None = None,
        call: dict[str, Any] | None = None,
    ) -> Event:
        number = NUMBERS[name.removeprefix("SIG")]
        signal = {"number": number, "name": name, "code": code, "result": result}
        body: dict[str, Any] = {
            **{"signal": signal, "origin": origin, "sender": sender, "target": target},
            **({"target_state": state} if state else {}),
            **({"call": call} if call else {}),
        }
        return self.add(Event("signal", self.now, target, sender, body))

    def exit(
        self,
        code: int | None = None,
        by: int | None = None,
        who: Process = INIT,
        ends_container: bool | None = True,
    ) -> Event:
        body = {
            "process": who,
            "exit_code": code,
            "signal": None if by is None else {"number": by, "name": signal_name(by)},
            "core_dumped": False,
            "container_exit": ends_container,
            "meaning": describe_signal_death(by, False) if by else describe_exit_code(code or 0),
        }
        return self.add(Event("exit", self.now, who, None, body))

    def oom(
        self,
        victim: Process = INIT,
        *,
        limit: int | None = 32 * MIB,
        limit_of: str | None = "container",
        scope: str | None = "cgroup",
        largest: list[dict[str, Any]] | None = None,
        members: Sequence[Process] = (),
        memory: dict[str, Any] | None = None,
        anon: int = 30 * MIB,
    ) -> Event:
        facts: Facts = {
            "anon_bytes": anon,
            "file_bytes": 0,
            "shmem_bytes": 0,
            "oom_score_adj": 999,
            "is_container_init": victim.pid_in_pod == 1,
        }
        own = {f: getattr(victim, f) for f in _FIELDS}
        dying = Victim(**own, facts=facts)
        body: dict[str, Any] = {
            "scope": scope,
            "victim": dying,
            "trigger": victim,
            "cgroup_path": "/a/path" if limit_of else None,
            "limit_of": limit_of,
            "limit_bytes": limit,
            "usage_bytes": limit,
            "order": 0,
            "gfp_flags": ["GFP_KERNEL"],
            "members": list(members),
            "largest": largest,
        }
        body |= {"memory": memory} if memory is not None else {}
        return self.add(Event("oom", self.now, dying, victim, body))

    def allocation(
        self,
        free: Sequence[int],
        order: int = 4,
        flags: Sequence[str] = ("GFP_KERNEL",),
        can_wait: bool = True,
    ) -> Event:
        body = {
            "process": INIT,
            "order": order,
            "bytes": 4096 << order,
            "gfp_flags": list(flags),
            "gfp_mask": "0xcc0",
            "quiet": False,
            "can_wait": can_wait,
            "buddyinfo": [{"node": 0, "zone": "Normal", "free": list(free)}] if free else None,
            "reading": "a reading" if free else None,
        }
        return self.add(Event("page_alloc_failure", self.now, INIT, None, body))

    def reset(
        self,
        direction: str,
        reason: str | None,
        meaning: str | None = None,
        *,
        port: int = 80,
        remote: int = 40000,
        inferred: bool = False,
        who: Process | None = None,
        place: Place | None = NETWORK,
        peer: Place | None = None,
        ends: tuple[str, str] = ("198.18.0.2", "198.18.0.1"),
        state: str | None = None,
        **traffic: Any,
    ) -> Event:
        """`traffic` is what `idle`, `bytes` and `answered` say."""
        body = {
            "direction": direction,
            "reason": reason,
            "reason_inferred": inferred,
            "meaning": meaning,
            "state": state,
            "local": {"address": ends[0], "port": port, "pod": place},
            "remote": {"address": ends[1], "port": remote, "pod": peer},
            "process": who,
            **traffic,
        }
        return self.add(Event("tcp_reset", self.now, who, None, body, place, peer))

    def drop(
        self,
        queue: str = "accept",
        count: int = 1,
        place: Place = NETWORK,
        port: int | None = 80,
    ) -> Event:
        body = {
            "queue": queue,
            "stage": None,
            "local": {"address": "198.18.0.2" if port else None, "port": port, "pod": place},
            "remote": None,
            "depth": 2,
            "limit": 1,
            "process": INIT,
            "count": count,
            "source": "counter",
        }
        return self.add(Event("backlog_drop", self.now, INIT, None, body, place))

    def lost(self, probe: str, count: int = 5, over_ms: float = 1000) -> Event:
        since = CLOCK.iso(self.now - int(over_ms * MS))
        body = {"probe": probe, "count": count, "since": since}
        return self.add(Event("lost", self.now, None, None, body))

    def explained(self) -> list[Explanation]:
        return explain_all(self.timelines.stories())

    def only(self) -> Explanation:
        (explanation,) = self.explained()
        return explanation


def part(
    name: str | None, limit: int | None, usage: int = MIB, container: Place = APP
) -> dict[str, Any]:
    """What one container of a pod had when the pod's limit was hit."""
    own = container.identity.container_id
    return {
        "cgroup": own,
        "container": name,
        "container_id": own,
        "limit_bytes": limit,
        "usage_bytes": usage,
        "anon_bytes": usage,
        "file_bytes": 0,
        "shmem_bytes": 0,
    }


def pod_memory(*parts: dict[str, Any], left: int = 0) -> dict[str, Any]:
    rest = {"usage_bytes": left, "anon_bytes": 0, "file_bytes": left, "shmem_bytes": left}
    return {"parts": list(parts), "left": rest}


_FIELDS = (
    *("pid", "tid", "comm", "exe", "argv", "uid", "pid_in_pod", "pid_level", "start_boot_ns"),
    *("place", "init_place", "ancestors", "ancestor", "kernel_thread"),
)
