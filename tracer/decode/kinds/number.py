# SPDX-License-Identifier: Apache-2.0
"""A number alone: an exit code, and a signal if it is small."""

from __future__ import annotations

import re

from tracer.decode import codes
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.decode.signals import SIGRTMAX

_NUMBER = re.compile(r"[-−]?\d{1,20}", re.ASCII)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    if not _NUMBER.fullmatch(line.text):
        return None
    code = int(line.text.replace("−", "-"))
    lines = codes.exit_code(code)
    if 1 <= code <= SIGRTMAX:
        lines += codes.of_signal(code)
    return lines


KIND = Kind(_read, rank=10)
