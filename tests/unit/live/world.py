# SPDX-License-Identifier: Apache-2.0
"""The live view on a recording that holds every kind of event, and hostile names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timezone
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tracer import probes
from tracer.cli.live import _parse_selectors
from tracer.live.app import LiveApp
from tracer.live.player import Player
from tracer.model.selection import Selection

RECORDING = Path(__file__).parents[2] / "data" / "format-1.0.ktrace"
BY_KIND = {kind: p for p in map(probes.get, probes.names()) for kind in p.whose}


def live_app(speed: float | None = None, recording: Path = RECORDING) -> LiveApp:
    return LiveApp(
        lambda post, note: Player(recording, Selection(everything=True), speed, post),
        BY_KIND,
        _parse_selectors,
        timezone.utc,
    )


@asynccontextmanager
async def running(
    app: LiveApp, size: tuple[int, int] = (100, 30), keys: Sequence[str] = ()
) -> AsyncIterator[Pilot[Any]]:
    """The application after the whole recording was shown, and then these keys were pressed."""
    async with app.run_test(size=size, notifications=True) as pilot:
        player = app.feed.player
        assert player
        await until(pilot, lambda: not player.playing or player.ended)
        await until(pilot, lambda: app.latest.now == player.position)
        await pilot.press(*keys)
        await pilot.pause()
        yield pilot
    app.wait()
    assert not app.failure


async def until(pilot: Pilot[Any], holds: Any) -> None:
    for _ in range(6000):
        if holds():
            return
        await pilot.pause(0.01)
    raise AssertionError("the application never came to what was awaited")
