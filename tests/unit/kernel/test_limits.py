# SPDX-License-Identifier: Apache-2.0
"""Limits by errno, what forbids to root, and that neither is taken for something else."""

from __future__ import annotations

import errno
import os
import resource
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from tracer.backends import bpf, core, libbpf, privileges, toolchain
from tracer.backends.libbpf import LibbpfError
from tracer.identity import inventory
from tracer.kernel import cgroupfs, limits
from tracer.kernel.hierarchies import Hierarchy
from tracer.model.errors import CannotOnThisKernel, LimitReached, MissingPrivilege
from tracer.recording.files import RecordingFile
from tracer.recording.reader import Reader


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (OSError(errno.EMFILE, ""), "(RLIMIT_NOFILE)", "ulimit -n "),
        (OSError(errno.ENFILE, ""), "(fs.file-max)", "raise fs.file-max"),
        (OSError(errno.ENOMEM, ""), "no memory", ""),
        (MemoryError(), "no memory", ""),
        (RuntimeError("can't start new thread"), "no thread could be started", "ulimit -u"),
    ],
)
def test_what_is_a_limit(error: Exception, what: str, remedy: str) -> None:
    limit = limits.behind(error)
    assert limit is not None
    assert what in limit.what
    assert remedy in limit.remedy


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "x"), OSError("x"), RuntimeError("x"), ValueError("x"), None]
)
def test_what_is_none(error: Exception | None) -> None:
    assert limits.behind(error) is None


def test_the_words_of_a_failure() -> None:
    assert limits.reason(OSError(errno.ENOENT, "No such file")) == "No such file"
    assert "ulimit -n" in limits.reason(OSError(errno.EMFILE, "Too many open files"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_libbpf_tells_a_limit_and_no_refusal(number: int) -> None:
    library = object.__new__(libbpf.Libbpf)
    library._log = deque()
    assert isinstance(library.error("loading", -number), LimitReached)
    assert isinstance(library.error("loading", -errno.EINVAL), LibbpfError)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_file_that_a_limit_keeps_closed_is_not_a_bad_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", failing(number))
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(LimitReached, match="cannot be read"):
        Reader(tmp_path / "x.ktrace")
    with pytest.raises(LimitReached, match="cannot be written"):
        RecordingFile(tmp_path / "x.ktrace")


def test_what_cannot_be_opened_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupfs, "hierarchies", lambda: [Hierarchy(0, "/nowhere", 2)])
    monkeypatch.setattr(os, "scandir", failing(errno.ENOENT))
    assert not cgroupfs.has_pods()
    monkeypatch.setattr(os, "scandir", failing(errno.EMFILE))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        cgroupfs.has_pods()
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EMFILE))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        inventory.check_pids([os.getpid()])


# How many descriptors


def test_a_soft_limit_is_raised_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
    limits.check_descriptors(2)
    ((soft, hard),) = asked
    assert 40 < soft < 200
    assert hard == 4096


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    with pytest.raises(LimitReached, match=r"may have 40 descriptors and no more \(RLIMIT_NOFILE"):
        limits.check_descriptors(2)


# Whose memory


def test_the_tightest_cgroup_from_here_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("8388608\n")
    (inner / "memory.max").write_text("max\n")
    monkeypatch.setattr(limits, "hierarchies", lambda: [Hierarchy(0, str(tmp_path), 2)])
    monkeypatch.setattr(Path, "read_text", only_here("0::/outer/inner\n", Path.read_text))
    monkeypatch.setattr(limits, "allowed", lambda name: None)
    limit = limits.named(errno.ENOMEM)
    assert limit is not None
    assert "the cgroup of this process may have 8192 KiB" in limit.what


def only_here(told: str, read: Any) -> Any:
    def read_text(path: Path, *rest: Any, **more: Any) -> Any:
        return told if str(path) == "/proc/self/cgroup" else read(path, *rest, **more)

    return read_text


# What forbids


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing restrains."""
    monkeypatch.setattr(privileges, "_is_in_user_namespace", lambda: False)
    monkeypatch.setattr(privileges, "_made", lambda entries: None)
    monkeypatch.setattr(toolchain, "lockdown", lambda: None)
    monkeypatch.setattr(privileges, "_status", lambda key, otherwise="": "0")
    monkeypatch.setattr(privileges, "_profile", lambda: "unconfined")


@pytest.mark.usefixtures("free")
def test_what_forbids_may_be_unknown() -> None:
    assert [*privileges.restraints()] == []
    assert "let this process" in privileges.refusal("loading: x").message


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("name", "value", "what", "remedy"),
    [
        ("_is_in_user_namespace", lambda: True, "user namespace", "root of the node"),
        ("_status", lambda key, otherwise="": "2", "seccomp", "seccompProfile"),
        ("_profile", lambda: "docker-default (enforce)", "docker-default", "privileged: true"),
    ],
)
def test_what_forbids_is_named(
    name: str, value: Any, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, name, value)
    refused = privileges.refusal("loading: x")
    assert what in refused.message
    assert remedy in (refused.remedy or "")


@pytest.mark.usefixtures("free")
def test_lockdown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "lockdown", lambda: "confidentiality")
    assert "kernel lockdown (confidentiality)" in privileges.refusal("loading: x").message


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("large", "named"), [(errno.EPERM, True), (errno.ENOMEM, False), (None, False)]
)
def test_locked_memory_where_maps_count_in_it(
    large: int | None, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest map may be made and a large one may not: no privilege is lacking."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(privileges, "_made", lambda entries: None if entries == 1 else large)
    words = privileges.refusal("loading: x").message
    assert ("locked memory, 64 KiB" in words) == named


def test_a_trial_tells_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "create_map", failing(errno.EPERM))
    assert privileges._made(1) == errno.EPERM


@pytest.mark.parametrize(
    ("number", "log", "privilege"),
    [
        (errno.EPERM, [], True),
        (errno.EACCES, [], True),
        (errno.EACCES, ["-- BEGIN PROG LOAD LOG --"], False),
        (errno.EINVAL, [], False),
    ],
)
def test_a_verifier_that_finds_fault_forbids_nothing(
    number: int, log: list[str], privilege: bool
) -> None:
    told = core._explain(LibbpfError("loading", number, log))
    assert type(told) is (MissingPrivilege if privilege else CannotOnThisKernel)
