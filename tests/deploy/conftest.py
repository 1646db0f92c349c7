# SPDX-License-Identifier: Apache-2.0
"""What is shipped, built once until something that goes into it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import bundle as made


@pytest.fixture(scope="session")
def bundle() -> Path:
    return made.bundle()


@pytest.fixture
def root() -> None:
    if os.geteuid():
        pytest.skip("tracing this kernel needs root")
