# SPDX-License-Identifier: Apache-2.0
"""What waits for records."""

from __future__ import annotations

import os

from tracer.backends.reader import Reader


def test_who_wakes_too_late_touches_nothing() -> None:
    """A signal may come when everything is closed, and another file has its number by then."""
    reader = Reader({})
    number = reader.woken
    reader.close()
    other = os.memfd_create("other")
    os.dup2(other, number)
    reader.wake()
    assert os.fstat(number).st_size == 0
    for descriptor in {other, number}:
        os.close(descriptor)


def test_who_is_woken_returns() -> None:
    reader = Reader({})
    reader.wake()
    assert reader.read(lambda: None, 60) is None
    reader.close()
