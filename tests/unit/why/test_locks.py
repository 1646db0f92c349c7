# SPDX-License-Identifier: Apache-2.0
"""What `why` says of iptables' lock."""

from __future__ import annotations

from tests.unit.why.locks import IN_POD, OTHER, TIMES, lock
from tests.unit.why.world import World
from tracer.why.verdict import Certainty, Verdict


def verdict(w: World) -> Verdict:
    return w.only().verdict


def test_given_up() -> None:
    w = World()
    for _ in range(TIMES):
        lock(w, "waiting", held=2)
        lock(w, "given_up", waited=5)
    found = verdict(w)
    assert (found.id, found.certainty, found.harm) == (
        "xtables_lock_held",
        Certainty.CERTAIN,
        TIMES,
    )
    assert found.sentence == (
        "23 attempts to change iptables' rules failed (the last one waited for 5 s); the last by"
        " iptables[41] (/usr/sbin/xtables-legacy-multi): iptables[99]"
        " (/usr/sbin/xtables-legacy-multi) held /run/xtables.lock, at last for 7 s"
    )


def test_refused_by_a_pod() -> None:
    w = World()
    lock(w, "refused", holder=IN_POD, held=None, place=OTHER)
    assert verdict(w).sentence.endswith(
        "kube-proxy[98] (/bin/kube-proxy) in pod shop/web-0 held /run/xtables.lock"
    )


def test_a_long_wait() -> None:
    w = World()
    lock(w, "waiting", held=1)
    lock(w, "acquired", waited=3, holder=None, held=None)
    found = verdict(w)
    assert found.sentence == (
        "1 change of iptables' rules had to wait (the last one waited for 3 s); the last by"
        " iptables[41] (/usr/sbin/xtables-legacy-multi): iptables[99]"
        " (/usr/sbin/xtables-legacy-multi) held /run/xtables.lock, at last for 1 s"
    )


def test_the_holder_is_not_known() -> None:
    w = World()
    lock(w, "given_up", waited=5, holder=None, held=None)
    assert "a process that is not known held /run/xtables.lock" in verdict(w).sentence


def test_everyday_waits_and_other_files() -> None:
    w = World()
    for _ in range(TIMES):
        lock(w, "waiting", held=0.001)
        lock(w, "acquired", waited=0.02, holder=None, held=None)
    lock(w, "given_up", waited=9, path="/data/other.lock")
    assert w.explained() == []


def test_two_files() -> None:
    w = World()
    lock(w, "other_file", held=None)
    found = verdict(w)
    assert (found.id, found.certainty) == ("xtables_lock_not_shared", Certainty.CERTAIN)
    assert found.sentence == (
        "iptables[41] (/usr/sbin/xtables-legacy-multi) changed the host's iptables' rules with a"
        " lock of its own, /run/xtables.lock (inode 4): iptables[99]"
        " (/usr/sbin/xtables-legacy-multi) locks another file of that name, so that each may undo"
        " the other's rules"
    )
