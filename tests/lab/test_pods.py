# SPDX-License-Identifier: Apache-2.0
"""`ktrace why` on incidents that affect a whole machine: in real pods, in a guest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab.machine import BOOTS, TOTAL_SECONDS
from tests.lab.pods import small_machine
from tests.support.incidents import SMALL_MACHINE, Incident, check


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, list[dict[str, Any]]]:
    return small_machine(print)


# the first waits for the machine
@pytest.mark.timeout(BOOTS * TOTAL_SECONDS)
@pytest.mark.parametrize("one", SMALL_MACHINE, ids=lambda one: one.name.replace(" ", "-"))
def test_an_incident(one: Incident, verdicts: Mapping[str, list[dict[str, Any]]]) -> None:
    check(one, verdicts[one.name])
