# SPDX-License-Identifier: Apache-2.0
"""The columns of several probes in one stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.probes import Probe
from tracer.probes.columns import CONTAINER, POD, Column


def stream_columns(probes: Mapping[str, Probe]) -> tuple[Column, ...]:
    """Columns for several probes in one stream: each event is a sentence."""
    return (
        Column("KIND", lambda e: e.kind, 6, 12, 2),
        POD,
        CONTAINER,
        Column("WHAT", lambda e: probes[e.kind].summary(e), 27, 120),
    )
