# SPDX-License-Identifier: Apache-2.0
"""The agent's options: the same words as flags, in the environment and in a file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.unit.agent.fakes import board
from tracer.agent import publishers
from tracer.cli import agent
from tracer.model.errors import UsageError

FAKES = str(Path(board.__file__).parent)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[click.Command]:
    """The command with one more publisher, found by its file alone."""
    monkeypatch.setattr(publishers, "__path__", [*publishers.__path__, FAKES])
    yield importlib.reload(agent).command
    monkeypatch.undo()
    importlib.reload(agent)


def chosen(command: click.Command, *words: str) -> dict[str, Any]:
    context = command.make_context("agent", list(words))
    found = agent._chosen(agent.LISTEN, context.params).get("board")
    return {**context.params, "board options": found and vars(found)}


def test_a_publisher_is_off_by_default(command: click.Command) -> None:
    assert chosen(command)["board options"] is None


def test_flags(command: click.Command) -> None:
    words = ["--board", "--board-room", "roof", "--board-pause", "5m", "--board-space", "2M"]
    words += ["--board-pins", "7", "--board-colours", "red", "--board-colours", "blue"]
    assert chosen(command, *words, "--no-board-light")["board options"] == {
        **{"on": True, "room": "roof", "pause": 300.0, "space": 2 << 20, "pins": 7},
        **{"colours": ("red", "blue"), "light": False},
    }


def test_the_environment(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BOARD": "1", "BOARD_ROOM": "roof", "BOARD_PINS": "7", "DIR": "/x"}.items():
        monkeypatch.setenv(f"KTRACE_{name}", value)
    got = chosen(command)
    assert got["dir"] == "/x"
    assert (got["board options"]["room"], got["board options"]["pins"]) == ("roof", 7)


def test_the_file(command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ktrace.yaml"
    file.write_text(
        "# a comment\nboard: true\nboard-room: roof\nboard-pause: 90s\nboard-pins: 7\n"
        "board-colours: [red, blue]\nboard-space: 2M\ndir: /x\nno-argv: true\n"
    )
    got = chosen(command, "--config", str(file))
    assert (got["dir"], got["no_argv"]) == ("/x", True)
    assert got["board options"] == {
        **{"on": True, "room": "roof", "pause": 90.0, "space": 2 << 20, "pins": 7},
        **{"colours": ("red", "blue"), "light": True},
    }
    monkeypatch.setenv("KTRACE_BOARD_PINS", "8")
    assert chosen(command, "--config", str(file))["board options"]["pins"] == 8
    got = chosen(command, "--config", str(file), "--board-pins", "9")
    assert got["board options"]["pins"] == 9, "the command line has the last word"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bord-room: x", "there is no option 'bord-room'"),
        ("5: x", "there is no option '5'"),
        ("2026-11-27: x", "there is no option '2026-11-27'"),
        ("<<: {board: true}", "there is no option '<<'"),
        ("? !!int 0x" + "f" * 5000 + "\n: x", "options are words"),
        ("[a]: x", "is no YAML"),
        ("!!map [a]", "is no YAML"),
        ("!!map a", "is no YAML"),
        ("? " + "x" * 100_000 + "\n: x", "there is no option 'x{100}'"),
        ("board-pins: !!int 0x" + "f" * 5000, "board-pins takes one value"),
        ("board-pins: 7\nboard-pins: 8", "board-pins stands in it 2 times"),
        ("board-pins:", "board-pins takes one value"),
        ("board-pins: seven", "board-pins: 'seven' is not a valid integer"),
        ("board-pause: soon", "board-pause: 'soon' is not a duration"),
        ("board-colours: [true]", "board-colours takes a list"),
        ("config: /x", "there is no option 'config'"),
        ("board: 5", "board is true or false"),
        ("board-room: [a, b]", "board-room takes one value"),
        ("board-room: true", "board-room takes one value"),
        ("board-colours: {a: b}", "board-colours takes a list"),
        ("board-colours: [[a]]", "board-colours takes a list"),
        ("[a, b]", "must hold options"),
        ("just text", "must hold options"),
        ("a: [", "is no YAML"),
        ("a: &a [*a]", "there is no option"),
        ("!!python/object/apply:os.system [exit]", "is no YAML"),
        ("\0", "is no YAML"),
        ("a: " + "[" * 5000, "is no YAML"),
    ],
)
def test_a_bad_file(command: click.Command, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "ktrace.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as raised:
        chosen(command, "--config", str(file))
    assert raised.value.remedy or "must hold options, one a line: `" in raised.value.message
    assert len(raised.value.message) < 600
    assert str(file) in raised.value.message
    if text.startswith("bord"):
        assert raised.value.remedy == "did you mean board-room?"


@pytest.mark.parametrize("what", ["missing", "directory", "large", "pipe"])
def test_no_file(command: click.Command, tmp_path: Path, what: str) -> None:
    file = tmp_path if what == "directory" else tmp_path / "ktrace.yaml"
    if what == "large":
        file.write_bytes(b"# " + b"x" * (1 << 20))
    if what == "pipe":
        os.mkfifo(file)
    with pytest.raises(UsageError, match=str(file)):
        chosen(command, "--config", str(file))


@pytest.mark.parametrize("name", ["2026-11-27", "010", "1_000", "1:30:00", "0xff", "1e3", "0.50"])
def test_a_word_stays_what_it_is(command: click.Command, tmp_path: Path, name: str) -> None:
    """A room may be called so."""
    file = tmp_path / "ktrace.yaml"
    file.write_text(f"board-room: {name}\nboard: true\nboard-colours: [{name}]\n")
    got = chosen(command, "--config", str(file))
    assert got["board options"]["room"] == name
    assert got["board options"]["colours"] == (name,)
