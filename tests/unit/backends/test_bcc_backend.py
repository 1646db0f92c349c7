# SPDX-License-Identifier: Apache-2.0
"""What the BCC backend does with the answers of a kernel, and with what it keeps on disk. The
answers here are made up; the real ones are for the lab's guests (tests/backends/)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracer import probes
from tracer.backends import bcc, bpf
from tracer.backends.bcc import BccBackend
from tracer.backends.bcc.programs import (
    KEPT,
    Compiled,
    Link,
    Programs,
    Refused,
    Site,
    keep,
    read_kept,
)
from tracer.backends.objects import Objects
from tracer.model.errors import CannotOnThisKernel

RESETS = probes.get("resets")
COMPILED = Compiled({"one": b"\x01\x02"}, 7)


class Opened:
    """Stands for a map or for links: descriptors that are open or not."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def link(self) -> Link:
        self.fds += [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
        return Link(*self.fds[-2:])

    def are_open(self) -> list[bool]:
        return [Path(f"/proc/self/fd/{fd}").exists() for fd in self.fds]


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[BccBackend]:
    monkeypatch.setattr(bcc, "KPROBES", Path("/"))  # this kernel may have none
    made = BccBackend()
    yield made
    made.close()


class Kernel:
    """In the place of `Programs`: attaches all but the programs that it refuses."""

    def __init__(self, opened: Opened, *refused: str) -> None:
        self.opened = opened
        self.refused = refused

    def attach(self, sites: list[Site]) -> list[Link]:
        for site in sites:
            if site.program in self.refused:
                raise Refused(f"{site.program} was refused")
        return [self.opened.link() for _ in sites]


# Attaching


def test_the_first_attach_point_that_is_accepted(backend: BccBackend, opened: Opened) -> None:
    """Without BTF fentry is none that could be tried."""
    kernel: Any = Kernel(opened, "on_send_reset_with_reason")
    backend._attach_probe(RESETS, kernel)
    taken = backend.attached["resets"]
    assert taken.name == "kprobe/tcp_v4_send_reset, kprobe/tcp_v6_send_reset"
    assert len(backend._links["resets"]) == len(taken.programs)
    backend.close()
    assert not any(opened.are_open())


def test_none_is_accepted(backend: BccBackend, opened: Opened) -> None:
    """Each that was tried is named."""
    sections = Objects().open("resets").programs
    kernel: Any = Kernel(opened, *sections)
    with pytest.raises(CannotOnThisKernel) as refused:
        backend._attach_probe(RESETS, kernel)
    possible = [p.name for p in RESETS.attach_points if bcc._is_possible(p, sections)]
    assert len(possible) >= 2
    assert all(name in refused.value.message for name in possible)
    assert "fentry" not in refused.value.message


def test_all_programs_of_an_attach_point_or_none(opened: Opened) -> None:
    programs = Programs(Path("/nowhere"), (), (), interrupt=-1)
    programs._compiled = Compiled(dict.fromkeys(("one", "two", "three"), b""), 7)
    programs._worker = Worker(opened)  # type: ignore[assignment]
    with pytest.raises(Refused, match="three"):
        programs.attach([Site(name, "kprobe", "x") for name in ("one", "two", "three")])
    assert opened.are_open() == [False] * 4


class Worker:
    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def attach(self, site: Site, instructions: bytes, version: int) -> Link:
        if site.program == "three":
            raise Refused("three was refused")
        return self.opened.link()


# Ring buffers or perf buffers


class MadeMap:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_kernel_with_ring_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeMap()
    monkeypatch.setattr(bpf, "create_map", lambda name, shape: made)
    assert bcc._has_ring_buffers(Objects())
    assert made.closed


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOMEM, errno.EPERM])
def test_only_a_kernel_that_does_not_know_them_has_none(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, shape: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bpf, "create_map", refuse)
    if number == errno.EINVAL:
        assert not bcc._has_ring_buffers(Objects())
        return
    with pytest.raises(OSError, match=os.strerror(number)):
        bcc._has_ring_buffers(Objects())


# Losses


def test_runs_that_the_kernel_refused_are_losses(
    backend: BccBackend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read when tracing ends, of each program; those that go with all probes have no events."""
    monkeypatch.setattr(bpf, "recursion_misses", lambda program: 3)
    monkeypatch.setattr(bpf, "count_lost", lambda table, kinds, missed: dict(missed))
    for name in ("context", "resets"):
        backend._shipped.open(name)
    backend._maps["kt_lost"] = MadeMap()  # type: ignore[assignment]
    backend._links = {
        "resets": [opened.link(), opened.link()],
        "context": [opened.link()],
    }
    backend._programs = {"resets": ("one", "two"), "context": ("three",)}
    assert backend.lost() == {}
    backend.detach()
    assert backend.lost() == {"tcp_reset": 6}
    assert backend.unseen == {}
    assert not any(opened.are_open())


def test_runs_that_would_have_told_nothing_are_none() -> None:
    """By what the attach points say of their programs: nobody is killed for want of memory in an
    interrupt, and next to no allocation fails in one."""
    misses = bpf.Misses()
    for probe in map(probes.get, ("oom", "pagealloc")):
        for point in probe.attach_points:
            assert point.nested.keys() <= set(point.programs)
            misses.add(probe.name, point.nested, dict.fromkeys(point.programs, 2))
    assert misses.unseen == {"allocations in interrupts": 2}
    assert misses.lost == {"oom": 2 * (3 + 3 + 1), "pagealloc": 2}


# What is kept


def test_what_another_user_wrote_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path / "x.json", COMPILED)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read_kept(tmp_path / "x.json") is None


def test_a_full_disk_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "x.json", COMPILED)

    def write_half(path: Path, text: str) -> int:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_half)
    keep(tmp_path / "x.json", Compiled({}, 8))
    assert read_kept(tmp_path / "x.json") == COMPILED


def test_what_was_never_finished_goes_in_its_turn(tmp_path: Path) -> None:
    (tmp_path / "x.4711").write_text("half of it")
    for number in range(KEPT):
        keep(tmp_path / f"{number}.json", COMPILED)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * KEPT
