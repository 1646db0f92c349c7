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
    r"\[(?P<map>[0-9a-f]{1,16}(?:,[0-9a-f]{1,16})?)\+(?P<size>[0-9a-f]{1,16})\])?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the kernel log. `address` and `error` (the processor's page fault code) belong to
    a segmentation fault. `module` is the mapped file's name without a path. `offset` counts from
    the start of the file if `in_file`, else from the start of the mapping (older kernels); it is
    None if the line contradicts itself."""

    comm: str
    tid: int
    what: str
    address: int | None = None
    error: int = 0
    module: str | None = None
    offset: int | None = None
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
    where = _offset(found["ip"], found["map"], found["size"]) if found["module"] else None
    offset, in_file = where or (None, False)
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


def _offset(ip: str, mapped: str, size: str) -> tuple[int, bool] | None:
    """The offset of the instruction, and whether it counts from the file's start. Newer kernels
    write the offset in the file in front of the mapping's start. None if the instruction is not in
    the mapping: the kernel writes no such line, but text may have lost digits."""
    *in_file, start = (int(part, 16) for part in mapped.split(","))
    offset = int(ip, 16) - start
    if not 0 <= offset < int(size, 16):
        return None
    return (in_file[0], True) if in_file else (offset, False)
