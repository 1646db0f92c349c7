# SPDX-License-Identifier: Apache-2.0
"""Stories of iptables' lock, as tests.unit.why.test_causes has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.why.world import HOST, SECOND, UID, World, place_of, process
from tracer.model.event import Event, Place, Process

Tell = Callable[[World], Any]

TIMES = 23
PATH = "/run/xtables.lock"
WAITER = process(41, "iptables", exe="/usr/sbin/xtables-legacy-multi")
ON_HOST = process(99, "iptables", HOST, exe="/usr/sbin/xtables-legacy-multi")
OTHER = place_of("b" * 64, "proxy", "a" * 8 + UID[8:])
IN_POD = process(98, "kube-proxy", OTHER)


def lock(
    w: World,
    outcome: str,
    *,
    waited: float = 0,
    holder: Process | None = ON_HOST,
    held: float | None = 7,
    path: str = PATH,
    place: Place | None = None,
) -> Event:
    other = {"path": None, "device": "0:26", "inode": 5}
    body: dict[str, Any] = {
        "outcome": outcome,
        "file": {"path": path, "device": "0:26", "inode": 4},
        "waited_ns": int(waited * SECOND),
        "process": WAITER,
        "holder": holder,
        "held_ns": int(held * SECOND) if held else None,
        "other_file": other if outcome == "other_file" else None,
    }
    return w.add(Event("file_lock", w.now, WAITER, holder, body, None, place))


STORIES: dict[str, tuple[Tell, str, str]] = {
    "a lock that is held": (
        lambda w: lock(w, "given_up", waited=5),
        "xtables_lock_held",
        "certain",
    ),
    "a lock of its own": (
        lambda w: lock(w, "other_file", held=None),
        "xtables_lock_not_shared",
        "certain",
    ),
}
