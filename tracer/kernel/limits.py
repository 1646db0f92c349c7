# SPDX-License-Identifier: Apache-2.0
"""Reached limits of this process, its cgroup or the node, in words and with a remedy. Code that
turns an errno into a sentence asks here first, so that a lack of descriptors does not look like a
missing feature of the kernel, or like a missing file."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracer.kernel.hierarchies import hierarchies
from tracer.model.errors import LimitReached

# Descriptors of a session besides its probes: names, /proc, cgroups, files, with some to spare.
DESCRIPTORS = 32
DESCRIPTORS_OF_A_PROBE = 8
# The usual limit of a shell, for the remedy.
USUAL = 1024

_ROOM_BYTES = 64 << 20
_UNLIMITED = (1 << 63) - 1
_THREAD = "can't start new thread"


@dataclass(frozen=True, slots=True)
class Limit:
    what: str
    remedy: str


def behind(error: BaseException | None) -> Limit | None:
    """The limit that caused an exception, if one did."""
    if isinstance(error, MemoryError):
        return named(errno.ENOMEM)
    if isinstance(error, RuntimeError) and str(error) == _THREAD:
        return _threads()
    return named(error.errno) if isinstance(error, OSError) else None


def named(number: int | None) -> Limit | None:
    """The limit that an errno means, if any."""
    if number == errno.EMFILE:
        return _descriptors()
    if number == errno.ENFILE:
        return Limit(
            "the node has no descriptor left for anybody (fs.file-max)",
            "sysctl fs.file-nr shows how many are in use; raise fs.file-max",
        )
    return _memory() if number == errno.ENOMEM else None


def reached(doing: str, number: int | None) -> LimitReached | None:
    limit = named(number)
    return LimitReached(f"{doing}: {limit.what}", limit.remedy) if limit else None


def hidden(doing: str, number: int) -> LimitReached | None:
    """The limit behind the error of a library that may hide the original errno. Tests whether there
    is still room for the resources that the library may have wanted."""
    try:
        mmap.mmap(-1, _ROOM_BYTES).close()
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return reached(f"{doing}: {os.strerror(number)}", error.errno)
    return None


def reason(error: OSError) -> str:
    """The words of an errno; for a limit, also which one and its remedy."""
    limit = behind(error)
    words = error.strerror or str(error)
    return f"{words}: {limit.what}; {limit.remedy}" if limit else words


def check_descriptors(probes: int) -> None:
    """Raises `LimitReached` if there are too few for this many probes. Without this check, a search
    that runs out of descriptors would take files that it cannot open for missing ones."""
    import resource

    needed = len(os.listdir("/proc/self/fd")) + DESCRIPTORS + probes * DESCRIPTORS_OF_A_PROBE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    elif soft < needed:
        limit = _descriptors()
        raise LimitReached(f"tracing takes up to {needed} descriptors: {limit.what}", limit.remedy)


def _descriptors() -> Limit:
    soft = allowed("RLIMIT_NOFILE")
    wanted = max(USUAL, 2 * (soft or 0))
    return Limit(
        f"this process may have {soft or 'so many'} descriptors and no more (RLIMIT_NOFILE)",
        f"ulimit -n {wanted}; in a unit: LimitNOFILE={wanted}",
    )


def _memory() -> Limit:
    if space := allowed("RLIMIT_AS"):
        return Limit(
            f"no memory: this process may have {space >> 10} KiB of addresses (RLIMIT_AS)",
            "ulimit -v unlimited; in a unit: LimitAS=infinity",
        )
    if limit := _cgroup_limit():
        return Limit(
            f"no memory: the cgroup of this process may have {limit >> 10} KiB, and BPF maps"
            " count in it",
            "raise its limit; in a unit: MemoryMax=, in a pod: resources.limits.memory",
        )
    return Limit(
        "no memory: the kernel had none to give, and no limit of this process is known",
        "free -m shows what the node has left",
    )


def _cgroup_limit() -> int | None:
    """The lowest memory limit from this process's cgroup to the root, in bytes."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        paths = {int(number): path for number, _, path in (line.split(":", 2) for line in lines)}
        for hierarchy in hierarchies():
            name = "memory.limit_in_bytes" if hierarchy.version == 1 else "memory.max"
            place = Path(hierarchy.mount + paths.get(hierarchy.number, "/"))
            while place.is_relative_to(hierarchy.mount):
                with suppress(OSError, ValueError):
                    found.append(int((place / name).read_text()))
                place = place.parent
    return min((limit for limit in found if limit < _UNLIMITED & ~0xFFFF), default=None)


def _threads() -> Limit:
    if allowed("RLIMIT_AS"):  # a thread's stack takes megabytes of it
        return _memory()
    number = allowed("RLIMIT_NPROC")
    return Limit(
        f"no thread could be started: RLIMIT_NPROC is {number or 'unlimited'}, and pids.max of the"
        " cgroup counts them, too",
        "ulimit -u unlimited; in a unit: TasksMax=, in a pod: the kubelet's podPidsLimit",
    )


def allowed(name: str) -> int | None:
    """The soft limit of that name; None if it is unlimited or unknown to the system."""
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
        return None if soft == resource.RLIM_INFINITY else soft
    return None
