# SPDX-License-Identifier: Apache-2.0
"""Every screen at three sizes is exactly as in `pictures/`, which somebody has looked at.

After a change that is meant: `KTRACE_RENEW_PICTURES=1 make test ARGS=tests/unit/live`, then look at
what has changed.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from textual.widgets import Input

from tests.unit.live.world import live_app, running

PICTURES = Path(__file__).parent / "pictures"
SIZES = ((60, 20), (100, 30), (200, 50))
SCREENS = {
    "pods": (),
    "pod": ("enter",),
    "stream": ("2",),
    "event-lost": ("2", "enter"),
    "event-signal": ("2", "home", "enter"),
    "event-backlog": ("2", "up", "enter"),
    "event-pagealloc": ("2", "up", "up", "up", "enter"),
    "event-oom": ("2", *("up",) * 6, "enter"),
    "help": ("question_mark",),
    "filter": ("f", *"-p web-0"),
    "found": ("2", "slash", *"nginx", "enter"),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen(screen: str, size: tuple[int, int]) -> None:
    picture = asyncio.run(taken(size, SCREENS[screen]))
    check(picture, f"{screen}-{size[0]}x{size[1]}")


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs say the same."""
    monkeypatch.setenv("NO_COLOR", "1")
    picture = asyncio.run(taken((100, 30), ()))
    assert ">!" in picture
    check(picture, "pods-without-colour")


def test_a_light_terminal() -> None:
    check(asyncio.run(taken((100, 30), ("2", "d"))), "stream-light")


@pytest.mark.parametrize("size", [(60, 20), (79, 24), (250, 80)])
def test_nothing_is_wider_than_the_screen(size: tuple[int, int]) -> None:
    async def look() -> None:
        async with running(live_app(), size) as pilot:
            for screen in ("pods", "stream", "pod", "event-lost", "event-oom", "help", "filter"):
                await pilot.press("1", *SCREENS[screen])
                await pilot.pause()
                strips = pilot.app.screen._compositor.render_strips()
                assert [strip.cell_length for strip in strips] == [size[0]] * size[1]
                while len(pilot.app.screen_stack) > 1:
                    await pilot.press("escape")
                await pilot.press("escape")

    asyncio.run(look())


async def taken(size: tuple[int, int], keys: tuple[str, ...]) -> str:
    app = live_app()
    async with running(app, size) as pilot:
        for field in app.screen.query(Input):
            field.cursor_blink = False
        await pilot.press(*keys)
        await pilot.pause()
        return app.export_screenshot(simplify=True)


def check(picture: str, name: str) -> None:
    file = PICTURES / f"{name}.svg"
    if os.environ.get("KTRACE_RENEW_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        file.write_text(picture)
    assert picture == file.read_text(), f"{name} looks different; see this module's first lines"
