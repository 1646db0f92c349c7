# SPDX-License-Identifier: Apache-2.0
"""A container in preparation: its first process is still the runtime's own."""

from __future__ import annotations

from tracer.model.event import Process
from tracer.model.origin import is_runtime

# The name of runc's own process in the container until it executes the container's program.
PREPARING = "runc:["


def is_preparing(process: Process | None) -> bool:
    """Whether it is runc's process. A program that took the name has another executable."""
    if process is None or not (process.comm or "").startswith(PREPARING):
        return False
    return process.exe is None or is_runtime(process.exe)
