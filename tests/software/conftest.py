# SPDX-License-Identifier: Apache-2.0
"""The programs take a minute or two to fetch, once: that is done before the first test, and none of
their time limits counts it."""

from __future__ import annotations

import pytest

from tests.software.build import Software, software


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any("programs" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        software(print)


@pytest.fixture(scope="session")
def programs() -> Software:
    return software(print)
