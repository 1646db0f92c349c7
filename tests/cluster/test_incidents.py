# SPDX-License-Identifier: Apache-2.0
"""The quick rows of `make truth CLUSTER=1`: what Kubernetes did, and what ktrace says of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.acceptance import Outcome, stage
from tests.cluster.bed import Bed
from tests.cluster.incidents import ROWS, Row

QUICK = [row for row in ROWS if not row.slow]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, bed: Bed) -> Iterator[dict[Row, Outcome]]:
    """Those whose tests were chosen."""
    items = (item for item in request.session.items if item.path == request.path)
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = [each["row"] for each in params if isinstance(each.get("row"), Row)]
    yield {outcome.row: outcome for outcome in stage(bed, chosen, print)}


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_an_incident(row: Row, outcomes: dict[Row, Outcome], bed: Bed) -> None:
    """A second try is another incident."""
    if row not in outcomes:
        outcomes |= {outcome.row: outcome for outcome in stage(bed, [row], print)}
    outcome = outcomes.pop(row)
    assert not outcome.faults, (outcome.shown, outcome.verdicts)
