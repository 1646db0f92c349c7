# SPDX-License-Identifier: Apache-2.0
"""`ktrace agent --check`: what it would do, and what it lacks, without doing it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from tests.unit.agent.test_options import command
from tracer import backends, probes
from tracer.agent.lock import Lock
from tracer.model.errors import CannotOnThisKernel, UsageError

__all__ = ["command"]

Check = Callable[..., Result]


@pytest.fixture
def check(command: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    from tracer.cli import agent

    monkeypatch.setattr(backends, "choose", lambda *_: SimpleNamespace(name="core"))

    def run(*words: str) -> Result:
        words = ("--check", "--dir", str(tmp_path / "made" / "history"), *words)
        return CliRunner().invoke(agent.command, words)

    return run


def test_what_it_would_do(check: Check, tmp_path: Path) -> None:
    told = check("--board", "--board-room", "roof\x1b", "--history-max-size", "1M")
    assert told.exit_code == 0, told.output
    for name in probes.names():
        assert f"traces     {name}, by backend core" in told.output
    assert f"keeps      its history in {tmp_path}/made/history: 7 d" in told.output
    assert "at most 1 MiB" in told.output
    assert "answers    on http://127.0.0.1:9464/healthz" in told.output
    assert "publishes  board: verdicts to the board in roof\\x1b" in told.output
    assert not (tmp_path / "made").exists()


def test_a_share_of_the_file_system(check: Check) -> None:
    told = check("--history-max-size", "9000T", "--history-max-share", "5")
    assert ", 5 % of its file system" in told.output
    assert "answers    nobody on the network" in check("--listen", "").output


def test_an_address_that_is_none(check: Check) -> None:
    told = check("--listen", "foo")
    assert isinstance(told.exception, UsageError)
    assert told.exception.message == "cannot listen on foo: it is no ADDRESS:PORT"


def test_what_it_lacks(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise CannotOnThisKernel("core lacks BTF", "a kernel with BTF")

    monkeypatch.setattr(backends, "choose", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    lock = Lock(tmp_path / "made" / "history")
    told = check()
    lock.release()
    assert told.exit_code == 1
    every = ", ".join(probes.names())
    assert f"lacks      {every}: core lacks BTF\n           a kernel with BTF" in told.output
    assert f"lacks      another agent, process {os.getpid()}, serves" in told.output
    assert "lacks      nothing can be written in" in told.output


def test_a_page_needs_an_address(check: Check) -> None:
    refused = check("--prometheus", "--listen", "").exception
    assert isinstance(refused, UsageError)
    assert refused.message == "--prometheus has a page, and --listen '' is nowhere"
    assert refused.remedy and "--listen" in refused.remedy
