# SPDX-License-Identifier: Apache-2.0
"""Paths in records, which stand there from the leaf to the root."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracer.model.event import text
from tracer.model.path import joined, path_of, reversed_names

NAMES = st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & {0, 47}))


@given(NAMES, st.binary(max_size=8))
def test_the_names_come_back_in_their_order(names: list[bytes], earlier: bytes) -> None:
    """What stands behind them in the record is of an earlier one."""
    raw = reversed_names(names)
    assert joined(raw + earlier, len(raw)) == b"/" + b"/".join(names)
    shown = "/" + "/".join(map(text, names))
    assert path_of(raw + earlier, len(raw), True) == shown
    assert path_of(raw + earlier, len(raw), False) == f"…{shown}"


def test_a_record_begins_with_the_leaf() -> None:
    assert reversed_names([b"a", b"b", b"c"]) == b"c\0b\0a\0"
