# SPDX-License-Identifier: Apache-2.0
"""What SystemTap scripts write, whole, torn and mixed with other output."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.records import described
from tracer.backends.stap.lines import MAX_LINE, Lines
from tracer.model.errors import KtraceError
from tracer.model.schema import Schema

SCHEMAS: dict[str, Schema] = {**described("context").schemas, **described("signals").schemas}
LAYOUT = b"kt layout 3 signal sender_process sender_pid code signal\n"
NAMED = b"kt layout 0 process process comm ancestry ancestors\n"
SIGNAL = SCHEMAS["signal"]

# what stands in a script's line, and what it means in the record
records = st.tuples(
    st.integers(0, 63),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 255),
)
# nothing of which is meant to be a record
stray = st.binary(max_size=40).filter(lambda text: b"\n" not in text and b"kt" not in text)


def line(serial: int, members: tuple[int, ...], kind: int = 3) -> bytes:
    """As printf("%d") writes 64 bits: the upper half of the numbers is negative."""
    signed = [m - (1 << 64) if m >= 1 << 63 else m for m in members]
    return f"kt {kind} {serial} {' '.join(map(str, signed))} {serial}\n".encode()


def fed(*pieces: bytes) -> tuple[Lines, list[Any], list[str]]:
    said: list[str] = []
    lines = Lines(SCHEMAS, said.append)
    found = [SIGNAL.make(SIGNAL.struct.unpack(r)) for p in pieces for r in lines.feed(p)]
    return lines, found, said


def told(record: Any) -> tuple[int, ...]:
    sender = record.sender_process, record.sender_pid
    return record.cpu, record.time, *sender, record.code, record.signal


@given(st.lists(st.tuples(stray, records), max_size=20), st.lists(st.integers(0, 2000)))
def test_records_survive_however_the_output_comes(
    sent: list[tuple[bytes, tuple[int, ...]]], cuts: list[int]
) -> None:
    numbered = enumerate(sent, 1)
    whole = LAYOUT + b"".join(other + b"\n" + line(n, record) for n, (other, record) in numbered)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    lines, found, _ = fed(*(whole[a:b] for a, b in pairwise(places)))
    assert [told(record) for record in found] == [record for _, record in sent]
    assert lines.missing(settled=True) == {"signal": 0}


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_what_is_lost_is_missed_and_nothing_is_invented(
    sent: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """From the middle of any line to the middle of any later one: what the kernel loses ends where
    something else begins."""
    whole = b"".join(line(number, record) for number, record in enumerate(sent, 1))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(whole.find(b"\n", start) + 1 or len(whole), len(whole)))
    total = b"\nkt total 3 %d\n" % len(sent)
    lines, found, _ = fed(LAYOUT, whole[:start], whole[end:], total)
    assert [told(record) for record in found if told(record) not in sent] == []
    assert lines.missing(settled=True) == {"signal": len(sent) - len(found)}


@given(st.lists(st.binary(max_size=200)))
def test_anything_else_is_no_record(pieces: list[bytes]) -> None:
    _, found, _ = fed(LAYOUT, *pieces)
    assert found == []


@pytest.mark.parametrize(
    "torn",
    [
        b"kt 3 1 0 5 6 7 8 9",  # without its end, and so without its number
        b"kt 3 1 0 5 6 7 8 9 2\n",
        b"kt 3 1 0 5 6 7 kt 3 1 0 5 6 7 8 9 1\n",
        b"kt 3 1 0 5 6 7 8 1\n",
        b"kt 3 1 0 5 6 7 8 300 1\n".replace(b"300", b"x"),
        b"kt 9 1 0 5 6 7 8 9 1\n",
        b"3 1 0 5 6 7 8 9 1\n",
    ],
)
def test_half_a_line_is_no_record(torn: bytes) -> None:
    lines, found, _ = fed(LAYOUT, torn)
    assert found == []
    assert lines.missing(settled=True) == {"signal": 0}, "nobody has told of more"


def test_stray_output_is_kept_as_words() -> None:
    _, found, said = fed(LAYOUT, b"WARNING: something\n", line(1, (0, 1, 2, 3, 4, 5)), b"half")
    assert len(found) == 1
    assert said == ["WARNING: something"]


def test_output_without_an_end_is_not_kept() -> None:
    lines, _, _ = fed(LAYOUT, *[b"x" * MAX_LINE] * 100)
    assert len(lines._rest) <= MAX_LINE


def test_a_number_that_is_only_late_is_not_missed() -> None:
    """CPUs write side by side: what is missing at one look may be there at the next."""
    record = (0, 1, 2, 3, 4, 5)
    lines, _, _ = fed(LAYOUT, line(1, record), line(3, record))
    assert lines.missing() == {"signal": 0}
    assert list(lines.feed(line(2, record)))
    assert lines.missing() == {"signal": 0}
    assert list(lines.feed(line(5, record)))
    assert [lines.missing(), lines.missing()] == [{"signal": 0}, {"signal": 1}]


def test_what_a_process_chose_is_in_hexadecimal() -> None:
    comm = b"a\nkt 3 1\xff \0".ljust(16, b"\0")
    lines, _, _ = fed(NAMED)
    text = b"kt 0 1 0 5 77 %s - 0 1\n" % comm.hex().encode()
    (record,) = lines.feed(text)
    schema = SCHEMAS["process"]
    process = schema.make(schema.struct.unpack(record))
    assert (process.process, process.comm, process.ancestors) == (77, comm, 0)
    assert not any(process.ancestry)


def test_more_bytes_than_a_member_has_are_no_record() -> None:
    lines, _, _ = fed(NAMED)
    assert list(lines.feed(b"kt 0 1 0 5 77 %s - 0 1\n" % (b"61" * 17))) == []


def test_what_a_script_says_of_itself() -> None:
    said = b"kt attached oom:mark_victim\nkt cannot-tell the limit\nkt ready\n"
    lines, _, stray_lines = fed(said)
    assert (lines.attached, lines.ready) == ("oom:mark_victim", True)
    assert (lines.cannot_tell, stray_lines) == (["the limit"], [])


def test_it_has_told_everything_with_the_totals() -> None:
    lines, _, stray_lines = fed(LAYOUT, b"kt ready\n")
    assert not lines.complete
    list(lines.feed(b"kt total 3 0\nkt total 4 0\n"))  # it may have fewer kinds than numbers
    assert (lines.complete, stray_lines) == (True, [])


@pytest.mark.parametrize("torn", [b"kt total 3 1x", b"kt total 3", b"kt layout 3 \xff time"])
def test_what_it_says_of_itself_may_be_torn(torn: bytes) -> None:
    lines, _, stray_lines = fed(LAYOUT, torn + b"\n")
    assert not lines.complete
    assert stray_lines == [torn.decode(errors="backslashreplace")]


@pytest.mark.parametrize("layout", [b"signal no_such_member", b"no_such_event time"])
def test_a_script_of_another_version(layout: bytes) -> None:
    with pytest.raises(KtraceError, match="does not know"):
        fed(b"kt layout 3 " + layout + b"\n")
