# SPDX-License-Identifier: Apache-2.0
"""What a node does not have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a node does not have, and the remedy."""

    what: str
    remedy: str
