# SPDX-License-Identifier: Apache-2.0
"""The errors that users see. Each has an exit code and, where there is one, a remedy.

Code anywhere raises one of these; `tracer.cli` alone turns them into a message and an exit code.
"""

from __future__ import annotations


class KtraceError(Exception):
    """An error that a user can read. `remedy` is the command or flag that mends it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(KtraceError):
    exit_code = 2


class MissingPrivilege(KtraceError):
    exit_code = 3


class CannotOnThisKernel(KtraceError):
    exit_code = 4


class NoSuchPod(KtraceError):
    exit_code = 5


class NoSuchProcess(KtraceError):
    exit_code = 5


class BadRecording(KtraceError):
    exit_code = 6


class LimitReached(KtraceError):
    """A limit of descriptors or memory, not a missing feature of the kernel."""
