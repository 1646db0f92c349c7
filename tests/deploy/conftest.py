# SPDX-License-Identifier: Apache-2.0
"""What is shipped, built once until something that goes into it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import bundle as made


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the first test: no test's time limit counts it."""
    if not session.config.option.collectonly:
        made.build_if_wanted(session.items, "bundle")


@pytest.fixture(scope="session")
def bundle() -> Path:
    return made.bundle()


@pytest.fixture
def root() -> None:
    if os.geteuid():
        pytest.skip("tracing this kernel needs root")
