# SPDX-License-Identifier: Apache-2.0
"""A SystemTap script's output, parsed into records of the same layouts as the core backend's.

stap/tapset/ktrace.stp describes the lines. Anything else, such as messages of the tool or half a
line, makes no record. Lines of each kind are numbered without gaps, so missing ones are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tracer.model.errors import KtraceError
from tracer.model.schema import Field, Schema

# A script writes at most 8 KiB as one line (STP_BUFFER_SIZE); a longer one is not a script's.
MAX_LINE = 16 << 10
PREFIX = b"kt "
_NOTHING = b"-"


@dataclass(slots=True)
class _Kind:
    """How lines of one kind become records, and which of them have come."""

    schema: Schema
    members: list[tuple[str, Callable[[bytes], int | bytes]]]
    newest: int = 0
    count: int = 0
    missing: int = 0


@dataclass(slots=True)
class Lines:
    """One script's output. `schemas` are by name, of the records that it may write. The script
    itself announces `attached`, `cannot_tell`, `ready` and `complete`. `stray` is called with every
    other line that is no record."""

    schemas: Mapping[str, Schema]
    stray: Callable[[str], None]
    attached: str = ""
    cannot_tell: list[str] = field(default_factory=list)
    ready: bool = False
    complete: bool = False
    _kinds: dict[bytes, _Kind] = field(default_factory=dict)
    _rest: bytes = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The records in a piece of output, which may begin and end anywhere."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest = b""
        for line in lines:
            record = self._take(line)
            if record is not None:
                yield record

    def missing(self, settled: bool = False) -> dict[str, int]:
        """Lost lines by event name, since the beginning. CPUs write in parallel, so an absent
        number counts only at the second call, or when all is `settled`."""
        return {k.schema.name: self._missing(k, settled) for k in self._kinds.values()}

    @staticmethod
    def _missing(kind: _Kind, settled: bool) -> int:
        gap, before = kind.newest - kind.count, kind.missing
        kind.missing = gap
        return gap if settled else min(gap, before)

    def _take(self, line: bytes) -> bytes | None:
        if line.startswith(PREFIX):
            head, *words = line[len(PREFIX) :].split(b" ")
            if head in self._kinds:
                record = _record(self._kinds[head], words)
                if record is not None:
                    return record
            elif self._announces(head, words):
                return None
        if line:
            self.stray(line[:200].decode("utf-8", "backslashreplace"))
        return None

    def _announces(self, head: bytes, words: list[bytes]) -> bool:
        """Whether the line is a script's announcement, and is whole."""
        try:
            return self._announce(head, words)
        except ValueError:
            return False

    def _announce(self, head: bytes, words: list[bytes]) -> bool:
        if head == b"layout" and len(words) > 2:
            self._lay_out(words[0], words[1].decode(), [word.decode() for word in words[2:]])
        elif head == b"attached":
            self.attached = b" ".join(words).decode()
        elif head == b"cannot-tell":
            self.cannot_tell.append(b" ".join(words).decode())
        elif head == b"total" and len(words) == 2:
            self._count(*words)
        elif head == b"ready":
            self.ready = True
        else:
            return False
        return True

    def _count(self, number: bytes, total: bytes) -> None:
        """Reads the script's last announcement: the number of lines of a kind."""
        newest = int(total)
        self.complete = True
        if kind := self._kinds.get(number):
            kind.newest = max(kind.newest, newest)

    def _lay_out(self, number: bytes, name: str, members: list[str]) -> None:
        schema = self.schemas.get(name)
        known = {f.name: f for f in schema.fields} if schema else {}
        if schema is None or not known.keys() >= set(members):
            raise KtraceError(
                f"the SystemTap script writes {name} records that this ktrace does not know",
                "reinstall ktrace: its scripts and its objects are not of the same version",
            )
        members = ["cpu", "time", *members]
        self._kinds[number] = _Kind(schema, [(m, _reader(known[m])) for m in members])


def _reader(member: Field) -> Callable[[bytes], int | bytes]:
    """The parser of a member. Numbers are decimal, unsigned ones perhaps written as the signed
    number of the same bits. Everything else is hexadecimal; Schema.pack pads it with zeros."""
    if member.code.endswith("s"):

        def read_bytes(word: bytes) -> bytes:
            value = b"" if word == _NOTHING else bytes.fromhex(word.decode())
            if len(value) > member.size:
                raise ValueError(word)
            return value

        return read_bytes
    bits = (1 << 8 * member.size) - 1
    return (lambda word: int(word) & bits) if member.code.isupper() else int


def _record(kind: _Kind, words: list[bytes]) -> bytes | None:
    """None for a line that is not whole. Its number counts as missing, as if it never came."""
    if len(words) != len(kind.members) + 2 or words[0] != words[-1]:
        return None
    # the line's number is between the kind and the members
    serial, *values = words[:-1]
    try:
        named = {name: read(word) for (name, read), word in zip(kind.members, values, strict=True)}
        record = kind.schema.pack(**named)
        kind.newest = max(kind.newest, int(serial))
    except (ValueError, struct.error):
        return None
    kind.count += 1
    return record
