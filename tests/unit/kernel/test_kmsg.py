# SPDX-License-Identifier: Apache-2.0
"""Lines of the kernel log: only the kernel's own, with what was lost in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.kernel.kmsg import KernelLog, Line, parse


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"6,339,5140900,-;NET: Registered\n", "NET: Registered"),
        (
            b"4,1,1,c,caller=T1;with more in front\n SUBSYSTEM=pci\n DEVICE=+x\n",
            "with more in front",
        ),
        (b"3,1,1,-;a;b,c\n", "a;b,c"),
        (b"3,1,1,-;\n", ""),
        (b"3,1,1,-;tab\\x09 and \\x5c and \\xc3\\xa9 and \\xff\n", "tab\t and \\ and é and \\xff"),
        (b"7,1,1,-;all priorities of facility 0\n", "all priorities of facility 0"),
    ],
)
def test_a_line_of_the_kernel(raw: bytes, text: str) -> None:
    line = parse(raw)
    assert line and line.text == text


@pytest.mark.parametrize("priority", [8, 12, 14, 30, 191, 8 * 23 + 3])
def test_a_line_of_somebody_else(priority: int) -> None:
    assert parse(b"%d,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG\n" % priority) is None


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"no record", b";", b"6,1;x", b"6,1,1,-", b"\xff" * 99]
)
def test_no_record(raw: bytes) -> None:
    assert parse(raw) is None


def test_the_time() -> None:
    """The log counts microseconds in which the machine did not sleep."""
    assert parse(b"6,1,2500,-;x\n", suspended_ns=7) == Line(2_500_007, "x")


def test_only_what_comes_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"6,1,1,-;before\n")
    with_gap: list[bytes | OSError] = [
        b"6,2,2,-;one\n",
        b"12,3,3,-;a user's\n",
        BrokenPipeError(),
        b"12,8,8,-;a user's\n",
        b"6,9,9,-;after the gap\n",
        b"6,10,10,-;last\n",
        BlockingIOError(),
    ]
    reader = KernelLog(str(log))
    assert reader.read() == []

    def read(_fd: int, _size: int) -> bytes:
        answer = with_gap.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "read", read)
    lines = reader.read()
    assert [(line.text, line.after_gap) for line in lines] == [
        ("one", False),
        ("after the gap", True),
        ("last", False),
    ]
    reader.close()


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        KernelLog(str(tmp_path / "missing"))


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory can be opened."""
    reader = KernelLog(str(tmp_path))
    assert reader.read() == []
    reader.close()
