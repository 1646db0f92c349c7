# SPDX-License-Identifier: Apache-2.0
"""The kernel tests once more, on each of Debian's kernels in a virtual machine: on the oldest and
the newest all of them, on those between them some (tests.lab.core)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.guests import SUITES
from tests.lab.kernels import Suite
from tests.lab.lab import Lab
from tests.lab.machine import BOOTS, TOTAL_SECONDS
from tests.lab.results import describe_failures


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Boots only those kernels whose tests were chosen."""
    chosen = {
        item.callspec.params["suite"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    }
    with Lab([suite for suite in SUITES if suite in chosen], print, brief=True) as lab:
        yield lab


# the first waits for the kernels to be fetched, and each for those that run before it
@pytest.mark.timeout(BOOTS * TOTAL_SECONDS)
@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite.in_tests], ids=str)
def test_kernel(lab: Lab, suite: Suite) -> None:
    results = lab.results(suite)
    print(f"{results.release}: {results.in_words()}")
    if not results.good:
        pytest.fail(describe_failures(results), pytrace=False)
