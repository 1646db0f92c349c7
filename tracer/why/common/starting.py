# SPDX-License-Identifier: Apache-2.0
"""A container that is being prepared: its first process is still the runtime's own."""

from __future__ import annotations

from tracer.model.event import Process
from tracer.model.origin import is_runtime

# What runc's own process in the container is called until it becomes the container's program.
PREPARING = "runc:["


def is_preparing(process: Process | None) -> bool:
    """A program that took that name is another executable."""
    if process is None or not (process.comm or "").startswith(PREPARING):
        return False
    return process.exe is None or is_runtime(process.exe)
