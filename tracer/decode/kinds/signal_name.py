# SPDX-License-Identifier: Apache-2.0
"""A signal's name alone: `SIGTERM`, `chld`, `RTMIN+3`."""

from __future__ import annotations

import re

from tracer.decode import codes
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.decode.signals import parse_signals
from tracer.model.errors import UsageError

_NAME = re.compile(r"((?i:SIG)?[A-Za-z]{1,12}\d{0,2}(?:\+\d{1,2})?)(?: \(\d{1,2}\))?", re.ASCII)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = _NAME.fullmatch(line.text)
    if not found:
        return None
    try:
        (number,) = parse_signals(found[1])
    except (UsageError, ValueError):
        return None
    return codes.of_signal(number)


KIND = Kind(_read, rank=11)
