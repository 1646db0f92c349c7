# SPDX-License-Identifier: Apache-2.0
"""An index with bytes that have changed anywhere: who asks gets an answer, and the next agent makes
it again."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.agent.test_history import WEB, Keeping, death, names
from tracer.agent.history import INDEX
from tracer.agent.history.query import History, wants

DEATHS = 23
EVERYBODY = {f"web-{number}" for number in range(DEATHS)} | {"quiet"}
# The header, the schema and the first cells are small, and everything depends on them.
PLACES = st.integers(0, 4095) | st.integers(0, (1 << 20) - 1)
CHANGES = st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=32)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("history")
    keeping = Keeping(directory)
    for number in range(DEATHS):
        keeping.store.tell(death(number), keeping.now)
    quiet = replace(WEB, pod="quiet", container_id="c" * 64, ended_ns=None, exit_code=None)
    keeping.store.live(quiet)
    keeping.second()
    keeping.close()
    with sqlite3.connect(directory / INDEX) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    return directory


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_bytes_that_have_changed(kept: Path, changes: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch) / "history"
        shutil.copytree(kept, directory)
        index = bytearray((directory / INDEX).read_bytes())
        for place, bits in changes:
            index[place % len(index)] ^= bits
        (directory / INDEX).write_bytes(index)

        history = History(directory)
        shown = set(names(history, running=True))
        history.last_death(wants("web-3"))
        if history.doubt is not None:
            assert shown == EVERYBODY, "it answers from the recordings"
        history.close()

        keeping = Keeping(directory)
        keeping.tell(death(100))
        keeping.written()
        keeping.close()
        if not hasattr(sqlite3, "SQLITE_ERROR") and keeping.store.state.failures:
            return  # before Python 3.11 some damage cannot be told from a failing disk
        assert keeping.store.state.failures == 0, keeping.said
        history = History(directory)
        shown = set(names(history, running=True))
        assert history.doubt is None
        assert "web-100" in shown
        if any("made again" in words for words in keeping.said):
            assert shown == {*EVERYBODY, "web-100"}
        history.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CREATE TABLE lives", b"CREATE TABLE livez"),
        (b"sentence", b"sentense"),
        (b"CREATE TABLE segments", b"CREATE TABLE \xff\xfegments"),
        (b"killed web-3", b"\xff\xfelled web-3"),
        (b"containerd", b"containe\xff\xff"),
    ],
)
def test_words_that_have_changed(kept: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    """Which SQLite's own check does not find."""
    directory = tmp_path / "history"
    shutil.copytree(kept, directory)
    index = (directory / INDEX).read_bytes()
    assert old in index
    (directory / INDEX).write_bytes(index.replace(old, new))
    keeping = Keeping(directory)
    keeping.second()
    keeping.close()
    assert any("made again" in words for words in keeping.said)
    history = History(directory)
    assert (history.doubt, set(names(history, running=True))) == (None, EVERYBODY)
    history.close()
