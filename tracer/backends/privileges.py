# SPDX-License-Identifier: Apache-2.0
"""The privileges that a process needs before any backend can trace."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from tracer.kernel.limits import Limit, allowed
from tracer.model.errors import MissingPrivilege

_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_ARRAY = 2  # BPF_MAP_TYPE_ARRAY


def check() -> None:
    """Raises `MissingPrivilege`, with a remedy, if the process may not trace."""
    if missing := missing_capabilities():
        raise MissingPrivilege(
            f"tracing needs {' and '.join(missing)}, which this process does not have",
            "run it as root: sudo ktrace …; in a pod: securityContext.privileged: true",
        )


def missing_capabilities() -> list[str]:
    """capabilities(7): CAP_SYS_ADMIN includes what CAP_BPF and CAP_PERFMON allow since 5.8."""
    have = {name for name, bit in _CAPABILITIES.items() if has(bit)}
    if "CAP_SYS_ADMIN" in have or have >= {"CAP_BPF", "CAP_PERFMON"}:
        return []
    return sorted({"CAP_BPF", "CAP_PERFMON"} - have)


def has(capability: int) -> bool:
    """`capability` is a number of include/uapi/linux/capability.h."""
    return bool(int(_status("CapEff"), 16) >> capability & 1)


def refusal(problem: str) -> MissingPrivilege:
    """The error for a kernel that refuses a process with the capabilities: `problem`, then the
    restraints."""
    found = [*restraints()]
    if not found:
        return MissingPrivilege(
            f"the kernel did not let this process do it: {problem}",
            "look for a denial: journalctl -k | grep -iE 'denied|lockdown|bpf'",
        )
    what = " and ".join(one.what for one in found)
    remedy = "; ".join(one.remedy for one in found)
    return MissingPrivilege(f"{problem}: {what} may forbid it", remedy)


def restraints() -> Iterator[Limit]:
    """What may forbid tracing even to root, likeliest first."""
    from tracer.backends import toolchain

    if _is_in_user_namespace():
        yield Limit(
            "the user namespace of this process, whose root is not the node's,",
            "run it as root of the node",
        )
    if _is_short_of_locked_memory():
        kib = (allowed("RLIMIT_MEMLOCK") or 0) >> 10
        yield Limit(
            f"the limit of locked memory, {kib} KiB, in which BPF maps count (RLIMIT_MEMLOCK),",
            "ulimit -l unlimited; in a unit: LimitMEMLOCK=infinity",
        )
    if mode := toolchain.lockdown():
        yield Limit(
            f"kernel lockdown ({mode})", "boot with lockdown=integrity or none, kernel_lockdown(7)"
        )
    if _status("Seccomp", "0") == "2":
        yield Limit(
            "the seccomp filter of this process",
            "allow bpf and perf_event_open; in a pod: seccompProfile: {type: Unconfined}",
        )
    if (profile := _profile()) and not profile.startswith(("unconfined", "kernel")):
        yield Limit(
            f"the security module's profile {profile!r}",
            "run it unconfined; in a pod: securityContext.privileged: true",
        )


def _is_in_user_namespace() -> bool:
    """The initial one maps all ids to themselves, user_namespaces(7)."""
    return _read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]


def _is_short_of_locked_memory() -> bool:
    """Before 5.11, maps count as locked memory, and exceeding the limit is EPERM. Then the smallest
    map can still be made, and a large one cannot."""
    limited = allowed("RLIMIT_MEMLOCK") is not None
    return limited and _made(1) is None and _made(1 << 20) == errno.EPERM


def _made(entries: int) -> int | None:
    """The errno of making a map of `entries`; None if that works."""
    from tracer.backends.bpf import create_map
    from tracer.kernel.btf import MapShape

    try:
        create_map("trial", MapShape(_ARRAY, 4, 8, entries)).close()
    except OSError as error:
        return error.errno
    return None


def _profile() -> str:
    """Of AppArmor or SELinux; empty if there is none."""
    return _read("/proc/self/attr/current").strip("\0\n ")


def _status(key: str, otherwise: str = "") -> str:
    for line in _read("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return value.strip()
    return otherwise


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
