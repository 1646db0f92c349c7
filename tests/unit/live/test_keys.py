# SPDX-License-Identifier: Apache-2.0
"""What the keys and the mouse do."""

from __future__ import annotations

import asyncio
import gc
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from tests.unit.live.world import RECORDING, live_app, running, until
from tracer.live import app as module
from tracer.live.app import LiveApp, Told
from tracer.live.bars import Keys, Prompt, Status, TimeBar
from tracer.live.lines import Lines
from tracer.live.player import Player
from tracer.live.screens import EventView, HelpView, PodsView, PodView, StreamView
from tracer.probes.columns import container_name, pod_name

Body = Callable[[LiveApp, Pilot[Any]], Awaitable[None]]
RECORDED = RECORDING.with_suffix(".jsonl").read_bytes().splitlines(keepends=True)


def play(body: Body, speed: float | None = None, size: tuple[int, int] = (100, 30)) -> None:
    async def run() -> None:
        app = live_app(speed)
        async with running(app, size) as pilot:
            await body(app, pilot)

    asyncio.run(run())


def lines(app: LiveApp) -> Lines[Any]:
    return app.screen.query_one(Lines)


def test_screens() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        seen = []
        for key in ("2", "1", "tab", "tab", "enter", "enter", "backspace", "backspace"):
            await pilot.press(key)
            seen.append(type(app.screen))
        assert seen == [
            *(StreamView, PodsView, StreamView, PodsView),
            *(PodView, EventView, PodView, PodsView),
        ]
        await pilot.press("backspace", "escape")
        assert isinstance(app.screen, PodsView)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpView)
        await pilot.press("question_mark")
        assert isinstance(app.screen, PodsView)

    play(body)


def test_an_empty_list_says_so() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        rows = lines(app)
        assert "nothing yet" not in rows.render_line(1).text
        rows.show((), 0)
        assert "nothing yet" in rows.render_line(1).text
        assert rows.render_line(2).text.isspace()

    play(body)


def test_a_snapshot_while_the_screen_is_taken_away() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await app.screen.query_one(Status).remove()
        app.on_told(Told(app.latest))
        await lines(app).remove()
        app.on_told(Told(app.latest))

    play(body)


def test_the_cursor() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("2")
        last = len(lines(app).rows) - 1
        at = []
        for key in ("home", "up", "j", "down", "k", "pagedown", "pageup", "G", "down"):
            await pilot.press(key)
            at.append(lines(app).cursor)
        page = lines(app).page
        assert (
            at
            == [0, 0, 1, 2, 1, min(last, 1 + page), max(0, min(last, 1 + page) - page)] + [last] * 2
        )

    play(body)


def test_the_stream_follows_unless_it_was_scrolled() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("2")
        widget = lines(app)
        event = widget.rows[-1]
        assert (widget.cursor, widget.following) == (len(RECORDED) - 1, True)
        app.feed.model.event(event)
        app.feed.model.post()
        await until(pilot, lambda: len(widget.rows) == len(RECORDED) + 1)
        assert (widget.cursor, widget.following) == (len(RECORDED), True)
        await pilot.press("up")
        app.feed.model.event(event)
        app.feed.model.post()
        await until(pilot, lambda: len(widget.rows) == len(RECORDED) + 2)
        assert (widget.cursor, widget.following) == (len(RECORDED) - 1, False)

    play(body)


def test_sorting() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        names = []
        for _ in range(5):
            names.append([row.place and row.place.pod.name for row in lines(app).rows])
            await pilot.press("s")
        hurt, node = "web-0", None
        assert names == [[hurt, node], [hurt, node], [hurt, node], [node, hurt], [hurt, node]]

    play(body)


def test_searching() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("2", "slash", *"sigkill", "enter")
        found = lines(app).selected
        assert found
        assert found.body["signal"]["name"] == "SIGKILL"
        await pilot.press("home", "slash", *"X" * 3, "enter")
        assert lines(app).cursor == 0
        await pilot.press("slash", *"ended", "enter")
        first = lines(app).cursor
        await pilot.press("n")
        second = lines(app).cursor
        await pilot.press("N")
        assert (second - first, lines(app).cursor) == (1, first)
        assert {lines(app).rows[at].kind for at in (first, second)} == {"exit"}

    play(body)


def test_filtering() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("f", *"-p shop/web-0 -c nginx", "enter")
        await until(pilot, lambda: len(app.shown.pods) == 1)
        assert pod_name(app.shown.pods[0].place) == "shop/web-0"
        events = app.shown.stream
        assert {container_name(event.place) for event in events if event.place} == {"nginx"}
        assert len(app.shown.stream) == 26 + 1  # what was lost is always told
        assert app.shown.events == 29
        await pilot.press("f", *"-n other", "enter")
        await until(pilot, lambda: not app.shown.pods)
        await pilot.press("f", "backspace", "enter")
        await until(pilot, lambda: len(app.shown.pods) == 2)
        assert len(app.shown.stream) == len(RECORDED)

    play(body)


@pytest.mark.parametrize("wrong", ["-x", "-p", "-p 'a", "--pid x", "web-0", "-l %%"])
def test_a_filter_that_is_none(wrong: str) -> None:
    """It is said where it was asked, and nothing changes."""

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("f")
        app.screen.query_one(Input).value = wrong
        await pilot.press("enter")
        prompt = app.screen.query_one(Prompt)
        assert prompt.asking
        assert "filter" not in str(prompt.query_one(Static).render())
        await pilot.press("escape")
        assert not prompt.asking
        assert len(app.shown.pods) == 2

    play(body)


def test_saving(tmp_path: Path) -> None:
    file = tmp_path / "saved.jsonl"

    async def save(app: LiveApp, pilot: Pilot[Any], *keys: str) -> list[bytes]:
        await pilot.press(*keys, "e")
        app.screen.query_one(Input).value = str(file)
        await pilot.press("enter")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        return file.read_bytes().splitlines(keepends=True)

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        assert await save(app, pilot, "2") == RECORDED
        assert await save(app, pilot, "home", "enter") == RECORDED[:1]
        of_pod = await save(app, pilot, "1")
        events = [orjson.loads(line) for line in RECORDED]
        wanted = [line for line, e in zip(RECORDED, events, strict=True) if e["pod"]]
        assert of_pod == wanted

    play(body)


def test_saving_never_follows_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("e")
        app.screen.query_one(Input).value = str(link)
        await pilot.press("enter")
        assert app.screen.query_one(Prompt).asking
        assert target.read_text() == "mine"

    play(body)


def test_copying() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("y")
        assert app.clipboard.split()[:2] == ["!", "shop/web-0"]
        await pilot.press("2", "home", "enter", "y")
        assert "SIGHUP from e\\x1b[31m\\n\\xff[20] to nginx[10]" in app.clipboard
        assert app.clipboard.isprintable()

    play(body)


def test_the_mouse() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.click(Lines, offset=(20, 2))
        assert lines(app).cursor == 1
        assert isinstance(app.screen, PodsView)
        await pilot.click(Lines, offset=(20, 2))
        assert isinstance(app.screen, PodView)
        await pilot.press("backspace")
        await pilot.click(Lines, offset=(20, 0))
        await pilot.click(Lines, offset=(20, 9))
        assert lines(app).cursor == 1

    play(body)


def test_the_keys_at_the_foot() -> None:
    """Whole ones only, closer where not all have room, and a click is as good as a key."""

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        keys = app.screen.query_one(Keys)
        shown = keys.render().plain
        words = ("⏎ Details", "/ Search", "s Sort", "? Help", "q Quit", "space Pause")
        assert shown == " " + " ".join([*words, "tab Screen", "f Filter", "← -10 s"])
        await pilot.click(Keys, offset=(shown.index("Help"), 0))
        assert isinstance(app.screen, HelpView)
        await pilot.press("escape")
        await pilot.click(Keys, offset=(len(shown) + 1, 0))
        assert isinstance(app.screen, PodsView)
        await pilot.click(Keys, offset=(shown.index("Screen"), 0))
        await until(pilot, lambda: isinstance(app.screen, StreamView))

    play(body, size=(82, 24))


def test_nothing_gathers_while_keys_are_pressed() -> None:
    """A search for garbage holds up the keys, and so longer the more there is to look at."""

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        counts = []
        for _ in range(8):
            await pilot.press("question_mark", "q", "enter", "enter", "escape", "escape", "tab")
            await pilot.press("enter", "escape", "tab")
            gc.collect()
            counts.append(len(gc.get_objects()))
        assert counts[-1] - counts[2] < 500

    play(body)


def test_a_long_search_for_garbage_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    app, now, took = live_app(), 0.0, 0.25
    began: list[float] = []

    def collect() -> None:
        nonlocal now
        began.append(now)
        now += took

    monkeypatch.setattr(module, "gc", SimpleNamespace(collect=collect))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    while now < 100:
        app._sweep()
        now += module.SWEEP_SECONDS
    assert 10 < len(began) <= 1 + now / (took * module.SWEEP_SHARE)


def test_leaving() -> None:
    for key in ("q", "ctrl+c"):

        async def run(key: str = key) -> None:
            app = live_app()
            async with running(app) as pilot:
                await pilot.press(key)
                await until(pilot, lambda: not app.is_running)
            app.wait()
            assert not app._worker.is_alive()

        asyncio.run(run())


def test_keys_of_a_recording_only() -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        player = app.feed.player
        assert player
        keys = {b.key for _, b, enabled, _ in app.screen.active_bindings.values() if enabled}
        assert {"left", "right", "left_square_bracket"} < keys
        assert "r" not in keys
        await pilot.press("left")  # ten seconds are more than there is
        await until(pilot, lambda: player.position == player.begin)
        await until(pilot, lambda: app.shown.events == 0)
        assert not player.playing
        await pilot.press("space")
        assert (player.playing, player.speed) == (True, 1)
        await pilot.press("space", "right_square_bracket")
        assert (player.playing, player.speed) == (False, 2)
        await pilot.click(TimeBar, offset=(80, 0))
        await until(pilot, lambda: app.shown.events == 29)
        assert player.begin < player.position < player.end

    play(body)


def test_a_way_back_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        bar = app.screen.query_one(TimeBar)
        monkeypatch.setattr(Player, "progress", 0.43)
        bar.tell()
        assert str(bar.render()).startswith(" » 43%  22:13:27 ")

    play(body)


def test_names_are_never_markup() -> None:
    """`[31m` in a process's name is neither an escape sequence nor a tag."""

    async def body(app: LiveApp, pilot: Pilot[Any]) -> None:
        await pilot.press("2", "home")
        for screen in ("", "enter"):
            await pilot.press(*([screen] if screen else []))
            await pilot.pause()
            shown = "\n".join(s.text for s in app.screen._compositor.render_strips())
            assert "e\\x1b[31m\\n\\xff[20]" in shown
            assert "\x1b" not in shown

    play(body)


def test_a_file_that_is_no_recording(tmp_path: Path) -> None:
    file = tmp_path / "x.ktrace"
    file.write_bytes(b"nonsense" * 9)
    with pytest.raises(Exception, match="not a ktrace recording"):
        live_app(recording=file)
    assert os.listdir(tmp_path) == ["x.ktrace"]
