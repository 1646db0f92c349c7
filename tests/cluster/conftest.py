# SPDX-License-Identifier: Apache-2.0
"""One cluster for all tests that need one. What it is built from may take minutes to make, once:
that is done before the first test, and none of their time limits counts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import build
from tests.cluster.bed import Bed
from tests.cluster.build import ClusterError
from tests.support.incidents import mishap
from tests.support.packages import FetchError


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any("bed" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        try:
            build.binaries(print)
        except (ClusterError, FetchError) as error:
            session.config.stash[_failure] = error


_failure = pytest.StashKey[Exception]()


@pytest.fixture(scope="session")
def bed(pytestconfig: pytest.Config) -> Iterator[Bed]:
    if failure := pytestconfig.stash.get(_failure, None):
        raise failure
    with Bed(print, extra_files={"/mishap": mishap()}) as running:
        yield running
