# SPDX-License-Identifier: Apache-2.0
"""Quantities in readable units."""

from __future__ import annotations

from tracer.model.units import counted


def test_one_is_no_plural() -> None:
    assert [counted(count, "pod") for count in range(3)] == ["0 pods", "1 pod", "2 pods"]
