# SPDX-License-Identifier: Apache-2.0
"""The history on real file systems: full, read-only, and one that the kernel gives up because of a
fault of its disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_for
from tests.unit.agent.test_history import Keeping, asked, death
from tracer.agent.history import disk as module
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.segments import segments
from tracer.agent.lock import Lock, holder
from tracer.model.errors import KtraceError

# All of a file system that is full before.
BOUNDS = Bounds(7 * 86400, 1 << 30, 1.0)
# EXT4_IOC_SHUTDOWN, and the flag to leave the journal as it is: what the kernel does itself when
# the journal of a disk cannot be written any more.
SHUTDOWN, NO_FLUSH = 0x8004587D, 2
# Bytes that fit into no file system of these tests.
MUCH = 16 << 20

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Makes file systems; what is left of them goes with the test."""
    made: list[Path] = []

    def make(kind: str, *words: str) -> Path:
        place = tmp_path / f"{kind}-{len(made)}"
        place.mkdir()
        subprocess.run(["mount", *words, str(place)], check=True)
        made.append(place)
        return place

    yield make
    for place in reversed(made):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No pause before the next attempt. Call it when what succeeds from now on ends the failure."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    return lambda: monkeypatch.setattr(module, "LAST_PAUSE", 0.0)


def gaps(keeping: Keeping) -> list[str]:
    return [words for words in keeping.said if "the history has a gap" in words]


def test_a_full_file_system(mount: Mount, calm: Callable[[], None]) -> None:
    """Others fill it. The oldest recordings make room; then there is a gap, until there is room."""
    place = mount("full", "-t", "tmpfs", "-o", "size=8m", "none")
    directory = place / "history"
    directory.mkdir()
    for number in range(2):
        old = Keeping(directory, BOUNDS)
        old.tell(death(number))
        old.second(1 << 20)
        old.close()
    keeping = Keeping(directory, BOUNDS)
    keeping.second()
    keeping.written()
    fill(place)
    for _ in range(4):
        keeping.second(400_000)
        keeping.written()
    assert keeping.store.state.removed > 0 and not gaps(keeping), "the oldest made room"
    for _ in range(30):
        keeping.second(400_000)
        keeping.written()
        fill(place)
    (words,) = gaps(keeping)
    assert os.strerror(errno.ENOSPC) in words and words.endswith("; tracing goes on")
    assert keeping.store.state.unrecorded > 0
    (place / "others").unlink()
    calm()
    keeping.second()
    keeping.written()
    before = keeping.store.state.unrecorded
    keeping.tell(death(7))
    keeping.tell(death(8))
    keeping.written()
    keeping.close()
    assert keeping.store.state.unrecorded == before
    assert asked(directory)[-2:] == ["web-7", "web-8"]
    assert "ktrace: the history goes on" in keeping.said


def fill(place: Path) -> None:
    """To the last byte."""
    with (place / "others").open("ab", buffering=0) as file:
        try:
            for size in (1 << 16, 1 << 12):
                while file.write(b"x" * size) == size:
                    pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_disk_that_dies(mount: Mount, calm: Callable[[], None], tmp_path: Path) -> None:
    """From one moment on every call on it fails with EIO, also of files that are open. Later the
    same file system is there again, as after a disk was mended."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(MUCH)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    place = mount("dying", "-o", "loop", str(image))
    keeping = Keeping(place, BOUNDS)
    keeping.tell(death(1))
    wait_for("it to be on the disk", lambda: keeping.store._disk.idle)
    shut_down(place)
    for _ in range(3):
        keeping.tell(death(9))
        keeping.written()
    (words,) = gaps(keeping)
    assert os.strerror(errno.EIO) in words
    assert 0 < keeping.store.state.unrecorded <= 3 * 3
    assert sum("the index cannot be written" in words for words in keeping.said) == 1
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    calm()
    keeping.second()
    keeping.written()
    before = keeping.store.state.unrecorded
    for number in (2, 3):
        keeping.tell(death(number))
        keeping.written()
    keeping.close()
    assert keeping.store.state.unrecorded == before
    assert "ktrace: the history goes on" in keeping.said
    assert asked(place) == ["web-1", "web-2", "web-3"]


def shut_down(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, NO_FLUSH.to_bytes(4, "little"))
    finally:
        os.close(fd)


def test_a_file_system_that_is_read_only(mount: Mount, calm: Callable[[], None]) -> None:
    """The agent begins all the same, and is the only one; the history can be asked, and goes on
    once something can be written."""
    place = mount("read-only", "-t", "tmpfs", "-o", "size=8m", "none")
    old = Keeping(place)
    old.tell(death(1))
    old.close()
    remount(place, "ro")
    lock = Lock(place)
    with pytest.raises(KtraceError, match="already serves"):
        Lock(place)
    calm()
    keeping = Keeping(place)
    for _ in range(3):
        keeping.second()
        keeping.written()
    assert any(os.strerror(errno.EROFS) in words for words in gaps(keeping)), keeping.said
    assert keeping.store.state.unrecorded > 0
    assert asked(place) == ["web-1"]
    remount(place, "rw")
    keeping.tell(death(2))
    keeping.tell(death(3))
    keeping.written()
    keeping.close()
    lock.release()
    assert len(segments(place)) == 2
    assert holder(place) is None
    assert asked(place)[0] == "web-1" and "web-3" in asked(place)


def remount(place: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(place)], check=True)
