# SPDX-License-Identifier: Apache-2.0
"""How reasons describe commands that the runtime executed."""

from __future__ import annotations

import shlex

from tracer.model.event import Process

MAX_COMMAND = 80


def quoted(process: Process | None) -> str:
    if process is None:
        return "that is not known"
    words = shlex.join(process.argv) if process.argv else process.exe or process.comm or "?"
    return f"({words if len(words) <= MAX_COMMAND else words[: MAX_COMMAND - 1] + '…'})"
