# SPDX-License-Identifier: Apache-2.0
"""Questions to a history, with or without an agent. It reads the agent's files: the index, or if
that cannot be used, what the recordings say."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from tracer.agent.history import INDEX
from tracer.agent.history.entry import Told
from tracer.agent.history.index import DAMAGE, Damaged, Index
from tracer.agent.item import Life
from tracer.kernel.limits import reason
from tracer.model.errors import KtraceError, MissingPrivilege
from tracer.model.names import Pod
from tracer.model.selection import pod_matches

_ID = re.compile(r"[0-9a-f]{6,64}", re.ASCII)

Wanted = Callable[[Life], bool]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A life with the verdict on its end, a verdict on harm, or a life without any. `running` is
    None if nobody saw its end: it was there when an agent stopped, and gone when the next began."""

    life: Life
    told: Told | None
    running: bool | None = False

    @property
    def at_ns(self) -> int:
        if self.told:
            return self.told.at_ns
        return self.life.ended_ns or self.life.began_ns or 0


class History:
    """Raises `KtraceError` if it cannot be read. `doubt` says why the answers do not come from the
    index but from the recordings; None if they do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.doubt: str | None = None
        try:
            self._index = self._open()
        except OSError as error:
            raise _unreadable(directory, error) from error

    def close(self) -> None:
        self._index.close()

    def last_death(self, wanted: Wanted) -> Told | None:
        """The verdict on the last end."""
        return self._answer(lambda: self._last(wanted, ends=True))

    def last_harm(self, wanted: Wanted) -> Told | None:
        """The last verdict of all."""
        return self._answer(lambda: self._last(wanted, ends=False))

    def last_lives(self, wanted: Wanted) -> list[Row]:
        """The last life of each container that has no verdict, in order of time."""
        rows = self.rows(wanted, -(1 << 63), running=True)
        last = {(row.life.pod_uid, row.life.container): row for row in rows}
        return [row for row in last.values() if row.told is None]

    def rows(self, wanted: Wanted, since_ns: int, *, running: bool) -> list[Row]:
        """In order of time. With `running`, also what has not ended."""
        return self._answer(lambda: self._rows(wanted, since_ns, running))

    def _answer(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (sqlite3.Error, *DAMAGE) as error:  # its pages are not checked before
            if self.doubt is not None:
                raise
            self._index.close()
            why = f"the index is damaged: {error}"
        try:
            self._index = self._from_recordings(why)
        except OSError as error:
            raise _unreadable(self.directory, error) from error
        return ask()

    def _last(self, wanted: Wanted, *, ends: bool) -> Told | None:
        for number, life in self._index.subjects(ends=ends):
            if wanted(life):
                return self._index.verdict(number)
        return None

    def _rows(self, wanted: Wanted, since_ns: int, running: bool) -> list[Row]:
        rows: list[Row] = []
        explained = set()
        for told in self._index.verdicts(since_ns):
            if wanted(told.life):
                rows.append(Row(told.life, told))
                if told.is_end:
                    explained.add((told.life.container_id, told.life.ended_ns))
        for life, session in self._lives(since_ns):
            if not wanted(life) or (life.container_id, life.ended_ns) in explained:
                continue
            if life.ended_ns is not None:
                rows.append(Row(life, None))
            elif running:
                rows.append(Row(life, None, True if session == self._session() else None))
        return sorted(rows, key=lambda row: (row.running is not False, row.at_ns))

    def _lives(self, since_ns: int) -> Iterator[tuple[Life, int]]:
        for life, _seen, session in self._index.lives(since_ns):
            yield life, session

    def _session(self) -> int:
        """The number of the session of the agent that runs now; 0 if none does."""
        from tracer.agent.history.segments import segments
        from tracer.agent.lock import holder

        if holder(self.directory) is None:
            return 0
        found = segments(self.directory)
        return found[-1].session if found else 0

    def _open(self) -> Index:
        path = self.directory / INDEX
        try:
            if path.stat().st_size:
                return self._with_the_latest(Index(path))
            why = "the index is empty"
        except FileNotFoundError:
            why = "the index is missing"
        except PermissionError:
            raise
        except Damaged as error:
            why = f"the index cannot be used: {error}"
        except sqlite3.OperationalError as error:  # such as one that is locked
            why = f"the index cannot be read: {error}"
        except sqlite3.Error as error:
            why = f"the index is damaged: {error}"
        except OSError as error:  # also of a file system that is read-only: SQLite would write
            why = f"the index cannot be opened: {reason(error)}"
        return self._from_recordings(why)

    def _with_the_latest(self, index: Index) -> Index:
        """And with what only the recordings say."""
        from tracer.agent.history.intake import lacks, take_in

        if not lacks(index, self.directory):
            return index
        whole = index.copy()
        index.close()
        take_in(whole, self.directory)
        return whole

    def _from_recordings(self, why: str) -> Index:
        from tracer.agent.history.intake import take_in

        self.doubt = why
        index = Index(None)
        take_in(index, self.directory)
        return index


def exists(directory: Path) -> bool:
    """Whether there is a history. Raises `KtraceError` if that cannot be seen."""
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(directory, error) from error
    if INDEX in found:
        return True
    from tracer.agent.history.segments import is_recording

    return any(map(is_recording, found))


def _unreadable(directory: Path, error: OSError) -> KtraceError:
    if isinstance(error, PermissionError) and os.geteuid():
        return MissingPrivilege(
            f"the history in {directory} is root's alone", "run it as root: sudo ktrace …"
        )
    return KtraceError(
        f"the history in {directory} cannot be read: {reason(error)}", "--dir names another one"
    )


def wants(
    what: str | None, namespaces: tuple[str, ...] = (), containers: tuple[str, ...] = ()
) -> Wanted:
    """`what` is a pod as in other commands ([namespace/]name, uid, glob, deploy/NAME), the first
    digits of a container's id, or outside of pods a container's name."""

    def wanted(life: Life) -> bool:
        if what is not None and not _is(life, what):
            return False
        if namespaces and not any(fnmatchcase(life.namespace or "", n) for n in namespaces):
            return False
        return not containers or any(_contains(life, name) for name in containers)

    return wanted


def _is(life: Life, what: str) -> bool:
    if life.pod_uid is not None:
        pod = Pod(life.pod_uid, life.namespace, life.pod)
        if pod_matches(pod, what):
            return True
    elif life.container is not None and fnmatchcase(life.container, what):
        return True
    return _has_id(life, what)


def _contains(life: Life, name: str) -> bool:
    return fnmatchcase(life.container or "", name) or _has_id(life, name)


def _has_id(life: Life, what: str) -> bool:
    return bool(
        _ID.fullmatch(what) and life.container_id is not None and life.container_id.startswith(what)
    )
