# SPDX-License-Identifier: Apache-2.0
"""A hexadecimal number alone: a mask of GFP flags, or a Windows status."""

from __future__ import annotations

import re

from tracer.decode import codes, flags
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_MASK = re.compile(r"(?:(?:mode:|gfp_mask=|gfp=|gfp_flags=)\s?)?0[xX](?P<digits>[0-9a-fA-F]{1,16})")


def _read(line: Line, kernel: Kernel) -> Answer | None:
    found = _MASK.fullmatch(line.text)
    if not found:
        return None
    number = int(found["digits"], 16)
    if codes.is_of_windows(number):
        return codes.exit_code(number)
    return flags.of_mask(number, kernel)


KIND = Kind(_read, marks=("0x", "0X"), rank=12)
