# SPDX-License-Identifier: Apache-2.0
"""The index: lives and verdicts in SQLite (WAL), and how far each recording has been taken in. It
answers in milliseconds what the recordings would take minutes for."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracer.agent.history.entry import LIFE_FIELDS, Entries, Told
from tracer.agent.item import Life

# Another number is another layout: the index is made again.
LAYOUT = 1
BUSY_SECONDS = 5.0
# A cgroup is removed within so long after the exit of its first process.
SAME_END_NS = 60_000_000_000
# The agent's clock and the present one, by which nothing is in the future, may differ by so much.
CLOCKS_DIFFER_NS = 1_000_000_000
_LIFE = ", ".join(LIFE_FIELDS)
_TABLES = f"""
CREATE TABLE lives (key TEXT NOT NULL, {_LIFE}, seen_ns INTEGER NOT NULL, session INTEGER NOT NULL);
CREATE INDEX lives_by_key ON lives (key);
CREATE TABLE verdicts (
    key TEXT NOT NULL, {_LIFE}, at_ns INTEGER NOT NULL, verdict TEXT NOT NULL, certainty, sentence,
    is_end INTEGER NOT NULL, segment INTEGER, offset INTEGER, json BLOB, text BLOB,
    UNIQUE (key, at_ns, verdict)
);
CREATE INDEX verdicts_by_time ON verdicts (at_ns);
CREATE TABLE segments (segment INTEGER PRIMARY KEY, taken INTEGER NOT NULL);
PRAGMA user_version = {LAYOUT};
"""
_TOLD = f"{_LIFE}, at_ns, verdict, certainty, sentence, is_end, json, text, segment, offset"


class Damaged(Exception):
    """The index cannot be used; it can be made again."""


# What a damaged index raises, also behind its first page: that it holds other types, or no UTF-8.
# `sqlite3.OperationalError` is mostly not about what it holds.
DAMAGE = (Damaged, sqlite3.DatabaseError, zlib.error, TypeError, ValueError)
# The general error is, as the statements are right. Older Pythons do not tell it from others.
_SQLITE_ERROR = 1
# The header begins so, up to the page size; with higher versions than WAL's SQLite reads at most.
_MAGIC, _VERSIONS = b"SQLite format 3\0\x10\0", b"\2\2"


class Index:
    """Raises `sqlite3.Error` if the disk fails. `path` None is an index in memory. With `whole` the
    file is checked from its beginning to its end."""

    def __init__(self, path: Path | None, *, whole: bool = False) -> None:
        self._path = path
        if path is not None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                header = os.pread(fd, len(_MAGIC) + len(_VERSIONS), 0)
            finally:
                os.close(fd)
            if header.startswith(_MAGIC) and not header.endswith(_VERSIONS):
                raise Damaged("it is damaged: its format is another one")
        self._db = sqlite3.connect(
            ":memory:" if path is None else path, BUSY_SECONDS, isolation_level=None
        )
        try:
            self._open(whole)
        except BaseException:
            self._db.close()
            raise

    def _open(self, whole: bool) -> None:
        execute = self._db.execute
        try:
            (layout,) = execute("PRAGMA user_version").fetchone()
            if layout == 0 and not execute("SELECT 1 FROM sqlite_master").fetchone():
                execute("PRAGMA auto_vacuum = INCREMENTAL")
                execute("PRAGMA journal_mode = WAL")
                self._db.executescript(f"BEGIN; {_TABLES} COMMIT;")
            elif layout != LAYOUT:
                made = f"another version of ktrace made it, with layout {layout}"
                raise Damaged(f"{made}; this one's is {LAYOUT}")
            elif whole and (found := execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise Damaged(f"it is damaged: {str(found[0])[:200]}")
            elif whole:
                self._read_all()
            execute("PRAGMA synchronous = NORMAL")
            execute("PRAGMA wal_autocheckpoint = 256")
            execute("PRAGMA journal_size_limit = 1048576")
            execute("PRAGMA cache_size = -1024")
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != _SQLITE_ERROR:
                raise
            raise Damaged(f"it is damaged: {error}") from error
        except Damaged:
            raise
        except DAMAGE as error:
            raise Damaged(f"it is damaged: {error}") from error

    def _read_all(self) -> None:
        """What no check of SQLite's looks at: that everything can be read. Raises `DAMAGE`."""
        self._db.text_factory = bytes.decode  # its own failure would be an OperationalError
        if self._schema() != Index(None)._schema():
            raise Damaged("it is damaged: its tables are others")
        for known in (self.verdicts(), self.lives(), iter(self.taken())):
            deque(known, maxlen=0)

    def _schema(self) -> list[tuple[str]]:
        found = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY sql"
        return self._db.execute(found).fetchall()

    def close(self) -> None:
        self._db.close()

    @property
    def bytes(self) -> int:
        """With its log."""
        if self._path is None:
            return 0
        names = (self._path, Path(f"{self._path}-wal"), Path(f"{self._path}-shm"))
        return sum(file.stat().st_size for file in names if file.exists())

    # The agent

    def taken(self) -> dict[int, int]:
        """The bytes of each recording that have been taken in."""
        return dict(self._db.execute("SELECT segment, taken FROM segments"))

    def take(
        self, segment: int, session: int, until: int | None, entries: Entries, now_ns: int
    ) -> None:
        """Adds what stands in a recording up to the byte `until`, whole or not at all; None if it
        stands in none."""
        self._db.execute("BEGIN")
        try:
            for told in entries.verdicts:
                self._add(told)
                self._live(told.life, session, now_ns)
            for life in entries.lives:
                self._live(life, session, now_ns)
            if until is not None:
                self._db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?)", (segment, until))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def forget(self, before_ns: int, segments: set[int], most_bytes: int) -> None:
        """Drops what is older, recordings that are not among `segments`, and the oldest quarter
        of all if the index is too large."""
        execute = self._db.execute
        if self.bytes > most_bytes:
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self.bytes > most_bytes:
            (count,) = execute("SELECT count(*) FROM verdicts").fetchone()
            row = execute(
                "SELECT at_ns FROM verdicts ORDER BY at_ns LIMIT 1 OFFSET ?", (count // 4,)
            ).fetchone()
            before_ns = max(before_ns, row[0] if row else before_ns)
        execute("DELETE FROM verdicts WHERE at_ns < ?", (before_ns,))
        execute("DELETE FROM lives WHERE coalesce(ended_ns, seen_ns) < ?", (before_ns,))
        for segment in self.taken().keys() - segments:
            execute("DELETE FROM segments WHERE segment = ?", (segment,))
        execute("PRAGMA incremental_vacuum").fetchall()

    def _add(self, told: Told) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO verdicts (key, {_TOLD}) VALUES (?{', ?' * 19})",  # noqa: S608
            (
                *(_key(told.life), *_life_row(told.life), told.at_ns, told.verdict, told.certainty),
                *(told.sentence, told.is_end, zlib.compress(told.json)),
                *(zlib.compress(told.text.encode()), told.segment, told.offset),
            ),
        )

    def _live(self, life: Life, session: int, now_ns: int) -> None:
        """Adds a life, or what is new of a known one."""
        if life.container_id is None:
            return
        known, exited = self._same(life)
        if known is None:
            self._db.execute(
                f"INSERT INTO lives (key, {_LIFE}, seen_ns, session)"  # noqa: S608
                f" VALUES (?{', ?' * (len(LIFE_FIELDS) + 2)})",
                (_key(life), *_life_row(life), now_ns, session),
            )
            return
        if exited and life.exit_code is None:  # the exit is the end, not that its cgroup is removed
            life = replace(life, ended_ns=None)
        newer = ", ".join(f"{name} = coalesce(?, {name})" for name in LIFE_FIELDS)
        self._db.execute(
            f"UPDATE lives SET {newer}, seen_ns = ?, session = ? WHERE rowid = ?",  # noqa: S608
            (*_life_row(life), now_ns, session, known),
        )

    def _same(self, life: Life) -> tuple[int | None, bool]:
        """The row of the same life, and whether its exit is known. A container that a runtime
        starts again is another one."""
        row = self._db.execute(
            "SELECT rowid, ended_ns, exit_code FROM lives WHERE key = ?"
            " ORDER BY rowid DESC LIMIT 1",
            (_key(life),),
        ).fetchone()
        if row is None:
            return None, False
        rowid, ended, code = row
        if ended is None:
            same = True
        elif life.ended_ns is None:
            same = _began_before(life, ended)
        elif code is not None and life.exit_code is None:
            # its cgroup is removed; the clock may have been set since the exit
            same = _began_before(life, ended) or abs(ended - life.ended_ns) <= SAME_END_NS
        else:
            both_exited = code is not None
            same = abs(ended - life.ended_ns) <= (0 if both_exited else SAME_END_NS)
        return (int(rowid) if same else None), code is not None

    # Questions

    def copy(self) -> Index:
        """One in memory, to which more can be added."""
        made = Index(None)
        self._db.backup(made._db)
        return made

    def verdicts(self, since_ns: int = -(1 << 63)) -> Iterator[Told]:
        """In order of time."""
        found = self._db.execute(
            f"SELECT {_TOLD} FROM verdicts WHERE at_ns >= ? ORDER BY at_ns, rowid",  # noqa: S608
            (since_ns,),
        )
        for row in found:
            yield _told(row)

    def subjects(self, *, ends: bool) -> Iterator[tuple[int, Life]]:
        """The number of each verdict, the newest first, and whose it is: enough to choose one.
        With `ends`, only of those on an end. What seems to be still to come is older than all: the
        clock has been set back since."""
        found = self._db.execute(
            f"SELECT rowid, {_LIFE} FROM verdicts WHERE is_end >= ?"  # noqa: S608
            " ORDER BY at_ns > ?, at_ns DESC",
            (int(ends), time.time_ns() + CLOCKS_DIFFER_NS),
        )
        for number, *life in found:
            yield number, Life(*life)

    def verdict(self, number: int) -> Told:
        found = self._db.execute(
            f"SELECT {_TOLD} FROM verdicts WHERE rowid = ?",  # noqa: S608
            (number,),
        )
        return _told(found.fetchone())

    def lives(self, since_ns: int = -(1 << 63)) -> Iterator[tuple[Life, int, int]]:
        """Lives that had not ended before, each with when it was last seen and the session that saw
        it."""
        found = self._db.execute(
            f"SELECT {_LIFE}, seen_ns, session FROM lives"  # noqa: S608
            " WHERE coalesce(ended_ns, seen_ns) >= ? ORDER BY coalesce(ended_ns, 1 << 62), seen_ns",
            (since_ns,),
        )
        for row in found:
            yield Life(*row[:-2]), row[-2], row[-1]


def remove(path: Path) -> None:
    """Removes a damaged index with its log."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


def _began_before(life: Life, ended_ns: int) -> bool:
    """Also if its beginning was not seen."""
    return life.began_ns is None or life.began_ns <= ended_ns


def _key(life: Life) -> str:
    return life.container_id or life.pod_uid or ""


def _life_row(life: Life) -> tuple[Any, ...]:
    return tuple(_storable(getattr(life, name)) for name in LIFE_FIELDS)


def _storable(value: Any) -> Any:
    """SQLite takes no lone surrogates, which a hostile name may have."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _told(row: Sequence[Any]) -> Told:
    life = Life(*row[: len(LIFE_FIELDS)])
    at_ns, verdict, certainty, sentence, is_end, json, text, segment, offset = row[
        len(LIFE_FIELDS) :
    ]
    text = zlib.decompress(text).decode()
    return Told(
        *(life, at_ns, verdict, certainty, sentence, bool(is_end), zlib.decompress(json), text),
        *(segment, offset),
    )
