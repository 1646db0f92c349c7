# SPDX-License-Identifier: Apache-2.0
"""A hexadecimal number alone: a mask of GFP flags, or a Windows status. Or a mask's names alone, or
both, as in the kernel's log and in its traces."""

from __future__ import annotations

import re

from tracer.decode import codes, flags
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_MASK = re.compile(r"(?:(?:mode:|gfp_mask=|gfp=|gfp_flags=)\s?)?0[xX](?P<digits>[0-9a-fA-F]{1,16})")

_NAMED = re.compile(
    r"(?:(?:mode:|gfp_mask=|gfp=|gfp_flags=)\s?)?(?:0[xX][0-9a-fA-F]{1,16}\(|(?=_*GFP_))"
    r"(?P<names>(?:_{0,2}GFP_[A-Z_]{2,32}|0x[0-9a-f]{1,16})(?:\|(?:_{0,2}GFP_[A-Z_]{2,32}|0x[0-9a-f]{1,16})){0,31})\)?"
)


def _read(line: Line, kernel: Kernel) -> Answer | None:
    found = _MASK.fullmatch(line.text)
    if not found:
        named = _NAMED.fullmatch(line.text)
        return flags.of_names(named["names"]) if named else None
    number = int(found["digits"], 16)
    if codes.is_of_windows(number):
        return codes.exit_code(number)
    return flags.of_mask(number, kernel)


KIND = Kind(_read, marks=("0x", "0X", "GFP_"), rank=12)
