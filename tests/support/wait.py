# SPDX-License-Identifier: Apache-2.0
"""The one way the tests wait: look, look again soon, and give up with an explanation.

A bare sleep is either too short on a slow machine or too long on a fast one. `wait_for` returns as
soon as the condition holds; if it never does, the error names the condition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# The longest that a busy machine may take; a condition that holds at once needs no wait.
PATIENCE_SECONDS = 120.0


class WaitTimeout(AssertionError):
    """Something that was awaited did not come in time."""


def wait_for(
    what: str,
    look: Callable[[], T | None],
    timeout: float = PATIENCE_SECONDS,
    interval: float = 0.01,
) -> T:
    """Call `look` until it returns something true, and return that.

    An exception from `look` ends the wait at once: `look` itself decides which errors to tolerate.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"waited {timeout:g} s for {what}")
        time.sleep(interval)
