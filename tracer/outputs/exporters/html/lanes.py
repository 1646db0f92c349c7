# SPDX-License-Identifier: Apache-2.0
"""The lanes of the timeline."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Lane:
    """One container, or a pod or the node as a whole. `life` is from when to when it was there,
    `worst` the rank of its worst verdict."""

    key: str
    title: str
    pod: str | None = None
    container: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    life: tuple[int, int | None] | None = None
    events: int = 0
    alarms: int = 0
    headline: str | None = None
    worst: int = 1 << 30
    number: int = 0
    drawn: tuple[int, int | None] | None = None  # the life since the page's beginning
