# SPDX-License-Identifier: Apache-2.0
"""The quick rows of `make truth SOFTWARE=1`: what real programs did, and what ktrace says of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.software.build import Software
from tests.software.rows import ROWS, Row
from tests.software.staging import stage
from tests.support.judging import Outcome

Outcomes = dict[Row, Outcome[Row]]
QUICK = [row for row in ROWS if row.quick]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, programs: Software
) -> Iterator[dict[Row, Outcome[Row]]]:
    """Of the rows whose tests were chosen."""
    items = (item for item in request.session.items if item.path == request.path)
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = [each["row"] for each in params if isinstance(each.get("row"), Row)]
    yield {outcome.row: outcome for outcome in stage(chosen, programs, print)}


@pytest.mark.timeout(600)  # the first one waits for all that are staged, also on a busy machine
@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_a_program(row: Row, outcomes: Outcomes, programs: Software) -> None:
    """A second try is another incident."""
    if row not in outcomes:
        outcomes |= {outcome.row: outcome for outcome in stage([row], programs, print)}
    outcome = outcomes.pop(row)
    assert not outcome.faults, (outcome.shown, outcome.verdicts)


def test_a_third_of_the_rows_is_quick() -> None:
    assert 3 * len(QUICK) >= len(ROWS)
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
