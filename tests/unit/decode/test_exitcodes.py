# SPDX-License-Identifier: Apache-2.0
"""Exit codes in words, and every status that wait(2) can give."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tracer.decode.exitcodes import describe_exit_code, describe_signal_death, split_status


def test_every_status_is_split_as_the_c_library_splits_it() -> None:
    for status in range(1 << 16):
        code, number, dumped = split_status(status)
        if os.WIFEXITED(status):
            assert (code, number, dumped) == (os.WEXITSTATUS(status), None, False)
        elif os.WIFSIGNALED(status):
            assert (code, number, dumped) == (None, os.WTERMSIG(status), os.WCOREDUMP(status))


@pytest.mark.parametrize("code", [0, 1, 42, 137, 255])
def test_a_process_that_exits(code: int) -> None:
    assert split_status(status_of(f"exit {code}")) == (code, None, False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_killed(number: int) -> None:
    assert split_status(status_of(f"kill -{number:d} $$")) == (None, number, False)


def status_of(script: str) -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)
    return os.waitpid(pid, 0)[1]


def test_a_signals_death_is_told_by_the_number_that_kubernetes_shows() -> None:
    assert describe_signal_death(9, False) == "137 = 128 + 9: killed by SIGKILL"
    assert describe_signal_death(11, True) == "139 = 128 + 11: killed by SIGSEGV, core dumped"


def test_a_code_above_128_is_a_claim_and_no_signal() -> None:
    words = describe_exit_code(143)
    assert words.startswith("143 = 128 + 15: ")
    assert "SIGTERM" in words
    assert "by itself" in words
    assert "killed by SIGKILL" not in describe_exit_code(255)


@pytest.mark.parametrize("code", range(256))
def test_every_code_has_words(code: int) -> None:
    words = describe_exit_code(code)
    assert words.startswith(str(code))
    assert len(words) > len(f"{code}: ")
    is_claim = 128 < code <= 128 + 64
    assert is_claim == ("128 +" in words)


SYSEXITS = {
    name: getattr(os, name) for name in dir(os) if name.startswith("EX_") and name != "EX_NOTFOUND"
}


@pytest.mark.parametrize(("name", "code"), SYSEXITS.items())
def test_the_codes_of_sysexits_have_their_names(name: str, code: int) -> None:
    if code:
        assert f"{name}: " in describe_exit_code(code)
    else:
        assert describe_exit_code(code) == "0: success"


def test_the_shells_codes() -> None:
    missing = subprocess.run(["sh", "-c", "/no/such/command"], capture_output=True, check=False)
    assert "not found" in describe_exit_code(missing.returncode)
    forbidden = subprocess.run(["sh", "-c", "/dev/null"], capture_output=True, check=False)
    assert "not executable" in describe_exit_code(forbidden.returncode)
    assert describe_exit_code(2).startswith("2: wrong usage")
