# SPDX-License-Identifier: Apache-2.0
"""Page allocations that really fail: what a cgroup's limit refuses, and in a guest what the whole
machine does not have in one piece."""

from __future__ import annotations

import functools
import mmap
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, Event, check_circumstances, check_complete
from tests.support.cgroups import memory_cgroup
from tests.support.fragmentation import (
    LARGE,
    MIB,
    PIPE_SIZE,
    buddyinfo,
    fail_so_often,
    fragmented,
    order_of,
    sending,
    setting,
    take_large_block,
)
from tests.support.ktrace import BACKEND, IN_GUEST, Ktrace
from tests.support.raisers import check_process, facts
from tracer import backends, probes
from tracer.backends import bpf, libbpf

KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "process", "order", "bytes"]
KEYS += ["gfp_flags", "gfp_mask", "quiet", "can_wait", "buddyinfo", "reading"]

# A pipe with so many slots that their table takes 4 MiB in one piece, charged to the cgroup, and
# without a warning (pipe_resize_ring() in fs/pipe.c). There is no other way: the call fails.
GREEDY = """
import fcntl, os, sys
reader, writer = os.pipe()
# what it has already is charged elsewhere, so that it can live with very little
open(sys.argv[2], "w").write(str(os.getpid()))
for _ in range(int(sys.argv[1])):
    try:
        fcntl.fcntl(writer, 1031, 256 << 20)
    except MemoryError:
        continue
    except OSError as error:
        if error.errno == 12:
            continue
        raise
    sys.exit("the pipe was made larger")
"""


@functools.cache
def sees_refused_charges() -> bool:
    """At the end of each allocation it shows that a cgroup's limit refused it; warn_alloc() is not
    called then."""
    probe = probes.get("pagealloc")
    backend = backends.choose(BACKEND, [probe])
    backend.attach([probe], {})
    backend.close()
    return backend.attached["pagealloc"].name == "tp_btf/mm_page_alloc"


def test_what_is_left_out_in_interrupts_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses a program that runs already: of a program that looks at every allocation,
    as in an interrupt during a page fault, that is told, and no loss. Of one that runs only when an
    allocation has failed it is one."""
    probe = probes.get("pagealloc")
    backend = backends.choose(BACKEND, [probe])
    backend.attach([probe], {})
    monkeypatch.setattr(bpf, "recursion_misses", lambda program: 15)
    monkeypatch.setattr(libbpf, "recursion_misses", lambda program: 15)
    backend.detach()
    lost, unseen = backend.lost(), backend.unseen
    backend.close()
    if sees_refused_charges():
        assert (lost, unseen) == ({}, {"allocations in interrupts": 15})
    else:
        assert (lost, unseen) == ({"page_alloc_failure": 15}, {})


def failures_of(events: Iterable[Event], pid: int, order: int) -> list[Event]:
    return [
        e
        for e in events
        if e["kind"] == "page_alloc_failure" and e["process"]["pid"] == pid and e["order"] == order
    ]


def check_failure(event: Event, order: int, quiet: bool) -> None:
    assert list(event) == KEYS
    check_circumstances(event)
    assert event["bytes"] == mmap.PAGESIZE << order
    assert event["quiet"] is quiet
    assert event["can_wait"] is True
    assert ("__GFP_NOWARN" in event["gfp_flags"]) is quiet
    assert event["gfp_flags"][0].startswith("GFP_")
    assert not [flag for flag in event["gfp_flags"] if flag.startswith("0x")]


def with_free_lists(events: list[Event], order: int) -> list[Event]:
    """What was read a second too late is not told, as on a busy machine."""
    timely = [event for event in events if event["buddyinfo"] is not None]
    assert timely
    for event in timely:
        zones = [(zone["node"], zone["zone"]) for zone in event["buddyinfo"]]
        assert zones == [(node, zone) for node, zone, _ in buddyinfo()]
        orders = len(buddyinfo()[0][2])
        assert all(len(zone["free"]) == orders for zone in event["buddyinfo"])
        assert event["reading"].startswith(f"order {order}: ")
    assert all(event["reading"] is None for event in events if event["buddyinfo"] is None)
    return timely


def greedy(cgroup: Path) -> int:
    """A process in `cgroup` of which TIMES allocations of 4 MiB failed; its pid."""
    program = [os.path.realpath(sys.executable), "-I", "-S", "-c", GREEDY]
    process = subprocess.Popen([*program, str(TIMES), f"{cgroup}/cgroup.procs"])
    assert process.wait(60) == 0
    return process.pid


@pytest.fixture
def pipes() -> Iterator[None]:
    with setting(PIPE_SIZE, 256 * MIB):
        yield


@pytest.mark.any_kernel
def test_refused_by_a_cgroup(pipes: None) -> None:
    with (
        Ktrace("pagealloc", "--all", "--quiet-failures") as ktrace,
        Ktrace("pagealloc", "--all") as usual,
        memory_cgroup(3 * MIB) as cgroup,
    ):
        pid = greedy(cgroup)
        order = order_of(LARGE)
        events = failures_of(ktrace.stop(), pid, order)
        check_complete(ktrace, events, TIMES if sees_refused_charges() else 0)
        for event in events:
            check_failure(event, order, quiet=True)
            assert {"GFP_KERNEL_ACCOUNT", "__GFP_ACCOUNT"} & set(event["gfp_flags"])
        if events:
            assert all("cgroup" in e["reading"] for e in with_free_lists(events, order))
        assert failures_of(usual.stop(), pid, order) == []


# All large pieces of the machine's memory are broken: only where it is a guest made for tests.
if IN_GUEST:

    def check_fragmented(events: list[Event], ktrace: Ktrace, quiet: bool) -> None:
        me = facts(os.getpid())
        check_complete(ktrace, events)
        for event in events:
            check_failure(event, order_of(LARGE), quiet)
            check_process(event["process"], me)
        # the kernel may have put a block together before the free lists were read
        in_pieces = [
            event
            for event in with_free_lists(events, order_of(LARGE))
            if "none of it" in event["reading"]
        ]
        assert in_pieces
        for event in in_pieces:
            assert event["reading"].endswith("in blocks of 4 MiB or more: fragmented")

    def test_fragmented_memory(pipes: None) -> None:
        """The caller has no other way and asked for no silence."""
        with (
            Ktrace("pagealloc", "--all") as ktrace,
            sending() as send,
            fragmented() as stack,
        ):
            fail_so_often(TIMES, stack, send)
            events = failures_of(ktrace.stop(), os.getpid(), order_of(LARGE))
            check_fragmented(events, ktrace, quiet=False)

    def test_quiet_failures(pipes: None) -> None:
        with (
            Ktrace("pagealloc", "--all", "--quiet-failures") as ktrace,
            Ktrace("pagealloc", "--all") as usual,
            fragmented() as stack,
        ):
            failures = 0
            while failures < TIMES:
                try:
                    take_large_block(stack)
                except (MemoryError, OSError):
                    failures += 1
            events = failures_of(ktrace.stop(), os.getpid(), order_of(LARGE))
            assert failures_of(usual.stop(), os.getpid(), order_of(LARGE)) == []
            check_fragmented(events, ktrace, quiet=True)
