# SPDX-License-Identifier: Apache-2.0
"""These tests run in the lab's guest for SystemTap alone (tests/lab/stap.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.kernel.checks", "tests.support.raisers")

from tests.stap.loaded import loaded_modules  # noqa: E402
from tests.support.raisers import children_of  # noqa: E402


@pytest.fixture(autouse=True)
def _clean_machine() -> Iterator[None]:
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == before, "the test left processes behind"
    assert loaded_modules() == [], "the test left modules in the kernel"
