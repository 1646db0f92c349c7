# SPDX-License-Identifier: Apache-2.0
"""Page allocations that really fail: what a cgroup's limit refuses, and in a guest what the whole
machine does not have in one piece."""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, Event, check_circumstances, check_complete
from tests.support.cgroups import memory_cgroup
from tests.support.ktrace import IN_GUEST, Ktrace
from tests.support.raisers import check_process, facts
from tracer import probes
from tracer.backends.core import CoreBackend

MIB = 1 << 20
KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "process", "order", "bytes"]
KEYS += ["gfp_flags", "gfp_mask", "quiet", "can_wait", "buddyinfo", "reading"]
PIPE_SIZE = Path("/proc/sys/fs/pipe-max-size")
OPTMEM = Path("/proc/sys/net/core/optmem_max")

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
    backend = CoreBackend()
    backend.attach([probes.get("pagealloc")], {})
    backend.close()
    return backend.attached["pagealloc"].name == "tp_btf/mm_page_alloc"


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
    zones = [(zone["node"], zone["zone"]) for zone in event["buddyinfo"]]
    assert zones == [(node, zone) for node, zone, _ in buddyinfo()]
    orders = len(buddyinfo()[0][2])
    assert all(len(zone["free"]) == orders for zone in event["buddyinfo"])
    assert event["reading"].startswith(f"order {order}: ")


def buddyinfo() -> list[tuple[int, str, list[int]]]:
    rows = []
    for line in Path("/proc/buddyinfo").read_text().splitlines():
        words = line.replace(",", "").split()
        rows.append((int(words[1]), words[3], [int(word) for word in words[4:]]))
    return rows


def greedy(cgroup: Path) -> int:
    """A process in `cgroup` of which TIMES allocations of 4 MiB failed; its pid."""
    program = [os.path.realpath(sys.executable), "-I", "-S", "-c", GREEDY]
    process = subprocess.Popen([*program, str(TIMES), f"{cgroup}/cgroup.procs"])
    assert process.wait(60) == 0
    return process.pid


@contextmanager
def setting(path: Path, value: int) -> Iterator[None]:
    before = path.read_text()
    try:
        path.write_text(str(value))
        yield
    finally:
        path.write_text(before)


def order_of(size: int) -> int:
    return (size // mmap.PAGESIZE - 1).bit_length()


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
        order = order_of(4 * MIB)
        events = failures_of(ktrace.stop(), pid, order)
        check_complete(ktrace, events, TIMES if sees_refused_charges() else 0)
        for event in events:
            check_failure(event, order, quiet=True)
            assert {"GFP_KERNEL_ACCOUNT", "__GFP_ACCOUNT"} & set(event["gfp_flags"])
            assert "cgroup" in event["reading"]
        assert failures_of(usual.stop(), pid, order) == []


# All large pieces of the machine's memory are broken: only where it is a guest made for tests.
if IN_GUEST:
    LARGE = 4 * MIB
    PIPE_BYTES = 64 << 10
    DESCRIPTORS = 1 << 16
    # above this share of fragmentation, in thousandths, the kernel puts memory together
    COMPACTION, NEVER = Path("/proc/sys/vm/extfrag_threshold"), 1000
    # the last of the large pieces are among what the kernel keeps for itself
    KEPT, KILOBYTES = Path("/proc/sys/vm/min_free_kbytes"), 1024

    @contextmanager
    def fragmented() -> Iterator[ExitStack]:
        """Most memory is free, and hardly a piece of it large: pipes take it until none is, and
        then all but every 16th of them are emptied. The kernel cannot move what is left."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        # what files take now would be given up later, in large pieces
        Path("/proc/sys/vm/drop_caches").write_text("3")
        with setting(COMPACTION, NEVER), setting(KEPT, KILOBYTES), ExitStack() as stack:
            pipes: list[int] = []
            while has_large_block():
                pipes += [_full_pipe(stack) for _ in range(16)]
            for number, reader in enumerate(pipes):
                if number % 16:
                    assert len(os.read(reader, PIPE_BYTES)) == PIPE_BYTES
            yield stack

    def take_large_block(stack: ExitStack) -> None:
        """For the table of a pipe; fails in silence."""
        pipe = _full_pipe(stack)
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 256 * MIB)

    def _full_pipe(stack: ExitStack) -> int:
        """Its reading end."""
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        assert os.write(writer, bytes(PIPE_BYTES)) == PIPE_BYTES
        return reader

    def has_large_block() -> bool:
        """Zone DMA is kept from all who do not ask for it."""
        zones = [free for _, zone, free in buddyinfo() if zone != "DMA"]
        return any(sum(free[order_of(LARGE) :]) for free in zones)

    def fail_so_often(stack: ExitStack, act: Callable[[], object]) -> None:
        """TIMES in all. Whatever large piece is left is taken."""
        failures = 0
        for _ in range(20 * TIMES):
            try:
                act()
            except (MemoryError, OSError):
                failures += 1
            else:
                with suppress(MemoryError, OSError):
                    take_large_block(stack)
            if failures == TIMES:
                return
        raise AssertionError(f"only {failures} allocations failed")

    def check_fragmented(events: list[Event], ktrace: Ktrace, quiet: bool) -> None:
        """What was read a second too late is not told."""
        me = facts(os.getpid())
        check_complete(ktrace, events)
        timely = [event for event in events if event["buddyinfo"] is not None]
        assert timely
        for event in timely:
            check_failure(event, order_of(LARGE), quiet)
            check_process(event["process"], me)
            assert event["reading"].endswith("in blocks of 4 MiB or more: fragmented")

    def test_fragmented_memory(pipes: None) -> None:
        """The caller, a control message of 3 MiB, has no other way and asked for no silence."""
        message = [(socket.SOL_SOCKET, 1, b"x" * (3 * MIB))]
        with (
            setting(OPTMEM, 8 * MIB),
            Ktrace("pagealloc", "--all") as ktrace,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            fragmented() as stack,
        ):
            fail_so_often(stack, lambda: sender.sendmsg([b"x"], message, 0, ("127.0.0.1", 9)))
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
