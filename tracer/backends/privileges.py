# SPDX-License-Identifier: Apache-2.0
"""What a process must be allowed to do before any backend can trace."""

from __future__ import annotations

from tracer.errors import MissingPrivilege

_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def check() -> None:
    """Raises with a remedy where the process is not privileged enough."""
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
    """By its number, include/uapi/linux/capability.h."""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return bool(effective >> capability & 1)
