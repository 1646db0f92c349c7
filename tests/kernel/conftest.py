# SPDX-License-Identifier: Apache-2.0
"""What every test against this machine's own kernel needs: root, and that nothing stays behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.kernel.checks", "tests.support.raisers")

from tests.support.raisers import children_of  # noqa: E402


@pytest.fixture(autouse=True)
def _clean_machine() -> Iterator[None]:
    if os.geteuid():
        pytest.skip("tracing this kernel needs root")
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == before, "the test left processes behind"
