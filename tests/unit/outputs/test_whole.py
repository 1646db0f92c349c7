# SPDX-License-Identifier: Apache-2.0
"""No line is cut, however its reader stalls and whatever ends the writer."""

from __future__ import annotations

import fcntl
import io
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_for
from tracer.outputs.whole import PIPE_BUF, write_lines, write_text

LINE = b"x" * 1500 + b"\n"  # divides no size of a pipe
COUNT = 200
ENDLESS = "import sys\nfrom tracer.outputs.whole import write_lines\n" + (
    "while True: write_lines(sys.stdout.buffer, [b'x' * 1500 + b'\\n'] * 100)"
)
IMPATIENT = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + ENDLESS


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def read_all(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as reader:
        return reader.read()


def is_full(writer: int) -> bool:
    return not select.select([], [writer], [], 0)[1]


@pytest.mark.parametrize(
    ("script", "number"), [(ENDLESS, signal.SIGKILL), (IMPATIENT, signal.SIGINT)]
)
def test_a_writer_that_is_ended_while_its_reader_stalls(
    pipe: tuple[int, int], script: str, number: int
) -> None:
    reader, writer = pipe
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=writer, stderr=subprocess.DEVNULL
    )
    wait_for("a full pipe", lambda: is_full(writer))
    process.send_signal(number)
    process.wait()
    os.close(writer)
    written = read_all(reader)
    assert len(written) > PIPE_BUF
    assert set(written.splitlines(keepends=True)) == {LINE}


@pytest.mark.parametrize("waits", [True, False])
def test_a_slow_reader_gets_everything(pipe: tuple[int, int], waits: bool) -> None:
    """Also from a pipe that does not wait: O_NONBLOCK is set by whoever shares it."""
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BUF)
    os.set_blocking(writer, waits)
    lines = [*[LINE] * COUNT, b"y" * 3 * PIPE_BUF + b"\n", *[LINE] * COUNT]
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read_all(reader)))
    with os.fdopen(writer, "wb") as out:
        thread.start()
        write_lines(out, lines)
    thread.join()
    assert got == [b"".join(lines)]


def test_a_part_is_followed_by_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may end the write of a long line early, and a disk take as much as it has room."""
    write = os.write

    def a_part(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[:7])

    monkeypatch.setattr("tracer.outputs.whole.os.write", a_part)
    with (tmp_path / "file").open("wb") as out:
        out.write(b"before\n")
        write_lines(out, [LINE, LINE])
    assert (tmp_path / "file").read_bytes() == b"before\n" + 2 * LINE


def test_text(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w", encoding="ascii", errors="backslashreplace") as out:
        out.write("before\n")
        write_text(out, ["one", "–"])
    assert (tmp_path / "file").read_bytes() == b"before\none\n\\u2013\n"


def test_in_memory() -> None:
    text, binary = io.StringIO(), io.BytesIO()
    write_text(text, ["one", "two"])
    write_lines(binary, [b"one\n"])
    assert (text.getvalue(), binary.getvalue()) == ("one\ntwo\n", b"one\n")
