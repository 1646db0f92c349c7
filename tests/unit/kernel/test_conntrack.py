# SPDX-License-Identifier: Apache-2.0
"""Counters of connection tracking."""

from __future__ import annotations

import os

from tracer.kernel import conntrack
from tracer.kernel.conntrack import Tracking

TEXT = b"""\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop
0000001f  00000002 00000000 00000000 00000001 0 0 0 00000000 00000010 00000003 00000000
0000001f  00000001 00000000 00000000 00000000 0 0 0 00000000 00000001 00000000 00000007
"""


def test_a_line_for_each_cpu() -> None:
    assert conntrack.parse(TEXT) == Tracking(31, 3, 7, 17, 3, 1)


def test_damaged_text() -> None:
    assert conntrack.parse(TEXT.splitlines()[0]) is None
    assert conntrack.parse(TEXT.replace(b"0000001f", b"what", 1)) == Tracking()
    assert conntrack.parse(b"a b\n1 2\n") == Tracking()


def test_increase() -> None:
    grown = Tracking(31, 3, 7, 17, 3, 1).since(Tracking(40, 3, 5, 20, 0, 1))
    assert grown == Tracking(31, 0, 2, 0, 3, 0)
    assert grown.counts
    assert not Tracking(31).counts


def test_of_a_process_that_lives_elsewhere() -> None:
    assert conntrack.read(os.getpid(), 1) is None
