# SPDX-License-Identifier: Apache-2.0
"""All guests of the lab, those for the first backend first. Guests of another architecture run only
when named, because an emulator takes longer for them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lab import arm64
from tests.lab.kernels import LabError, Suite
from tests.lab.makers import maker
from tracer import backends

SUITES = tuple(suite for name in backends.NAMES for suite in maker(name).SUITES)


def chosen(words: Sequence[str]) -> list[Suite]:
    """Suites by name, series or label; without names, all of this architecture. An architecture
    chooses all of another one."""
    called = {suite: {suite.name, suite.series, suite.label, str(suite)} for suite in SUITES}
    called |= {suite: {suite.label, str(suite), suite.architecture} for suite in arm64.SUITES}
    unknown = [word for word in words if not any(word in names for names in called.values())]
    if unknown:
        raise LabError(f"no kernel {unknown[0]}: there are {', '.join(map(str, called))}")
    return [suite for suite in called if called[suite] & set(words)] if words else list(SUITES)
