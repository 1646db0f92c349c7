# SPDX-License-Identifier: Apache-2.0
"""The kernel log's lines about processor faults.

They name the mapped file and the offset. The kernel writes them for processor faults only (not for
SIGBUS), and unless debug.exception-trace is 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"(?P<comm>[^\n]{1,16})\[(?P<pid>\d{1,10})\]"
    r"(?:: (?P<segfault>segfault) at (?P<at>[0-9a-f]{1,16})|"
    r" (?P<trap>general protection(?: fault)?|trap [a-z0-9 ]{1,40}?))"
    r" r?ip[: ](?P<ip>[0-9a-f]{1,16}) r?sp[: ][0-9a-f]{1,16} error[: ](?P<error>[0-9a-f]{1,16})"
    r"(?: in (?P<module>[^\n]{1,255})"
    r"\[(?P<map>[0-9a-f]{1,16}(?:,[0-9a-f]{1,16})?)\+[0-9a-f]{1,16}\])?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the kernel log. `address` and `error` (the processor's page fault code) belong to
    a segmentation fault. `module` is the mapped file's name without a path. `offset` counts from
    the start of the file if `in_file`, else from the start of the mapping (older kernels)."""

    comm: str
    tid: int
    what: str
    address: int | None = None
    error: int = 0
    module: str | None = None
    offset: int = 0
    in_file: bool = False

    @property
    def access(self) -> str | None:
        """The kind of access and its address (enum x86_pf_error_code)."""
        if self.address is None:
            return None
        verb = "executed" if self.error & 16 else "wrote to" if self.error & 2 else "read"
        return f"{verb} {'the forbidden' if self.error & 1 else 'the unmapped'} address" + (
            f" {self.address:#x}"
        )


def parse(text: str) -> Fault | None:
    found = _LINE.search(text)
    if not found:
        return None
    offset, in_file = _offset(found["ip"], found["map"]) if found["module"] else (0, False)
    return Fault(
        comm=found["comm"],
        tid=int(found["pid"]),
        what="segmentation fault" if found["segfault"] else found["trap"].removeprefix("trap "),
        address=int(found["at"], 16) if found["segfault"] else None,
        error=int(found["error"], 16),
        module=found["module"],
        offset=offset,
        in_file=in_file,
    )


def _offset(ip: str, mapped: str) -> tuple[int, bool]:
    """Newer kernels write the offset in the file in front of the mapping's start."""
    parts = [int(part, 16) for part in mapped.split(",") if part]
    return (parts[0], True) if len(parts) == 2 else (int(ip, 16) - parts[0], False)
