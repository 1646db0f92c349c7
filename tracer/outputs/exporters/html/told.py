# SPDX-License-Identifier: Apache-2.0
"""What was told to the page, also of what it does not keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Told:
    """`lost` are the events of all `losses`."""

    verdicts: int = 0
    losses: int = 0
    lost: int = 0
