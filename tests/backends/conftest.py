# SPDX-License-Identifier: Apache-2.0
"""These tests run in the lab's guests for BCC alone (tests/lab/bcc.py), and leave them as they
were."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.kernel.checks", "tests.support.raisers")

from tests.backends.kernel import InKernel  # noqa: E402
from tests.support.raisers import children_of  # noqa: E402
from tests.support.wait import wait_for  # noqa: E402

DEBUGFS = Path("/sys/kernel/debug")


@pytest.fixture(scope="session", autouse=True)
def _debugfs() -> None:
    """For the list of probed functions. The guest ends with the tests."""
    if not any(DEBUGFS.iterdir()):
        subprocess.run(["mount", "-t", "debugfs", "debugfs", DEBUGFS], check=True)


@pytest.fixture(autouse=True)
def _clean_machine(_debugfs: None) -> Iterator[None]:
    before, children = InKernel.now(), children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == children, "the test left processes behind"
    # the kernel takes its time after a descriptor is closed
    wait_for("the kernel to be as before", lambda: InKernel.now() == before)
