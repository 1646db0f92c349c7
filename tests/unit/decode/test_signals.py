# SPDX-License-Identifier: Apache-2.0
"""Signals by name: what a user may type, and what is shown for every number and code."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.decode.signals import NUMBERS, code_name, parse_signals, signal_name
from tracer.model.errors import UsageError

EVERY = range(1, 65)


@pytest.mark.parametrize("number", range(1, 32))
def test_a_number_has_the_name_that_the_shell_gives_it(number: int) -> None:
    shell = subprocess.run(
        ["bash", "-c", f"kill -l {number}"], capture_output=True, text=True, check=True
    )
    assert signal_name(number) == f"SIG{shell.stdout.strip()}"


@pytest.mark.parametrize("number", EVERY)
def test_the_name_that_is_shown_can_be_typed(number: int) -> None:
    name = signal_name(number)
    for word in (name, name.removeprefix("SIG"), name.lower(), f" {name} ", str(number)):
        assert parse_signals(word) == {number}


def test_names_are_unique() -> None:
    assert len({signal_name(number) for number in EVERY}) == len(EVERY)


def test_real_time_signals_count_from_the_kernels_first() -> None:
    assert signal_name(34) == "SIGRTMIN"
    assert signal_name(33) == "SIG33"
    assert signal_name(64) == "SIGRTMIN+30"
    assert parse_signals("RTMIN+3") == {37}


def test_a_number_that_is_no_signal_is_still_shown() -> None:
    assert signal_name(0) == "SIG0"
    assert signal_name(99) == "SIG99"


def test_several_and_all() -> None:
    assert parse_signals("KILL,term, SIGUSR1 ,9") == {9, 15, 10}
    assert parse_signals("all,KILL") == parse_signals("KILL, ALL") == parse_signals("all")
    assert parse_signals("all") == parse_signals(" ALL ") == set(EVERY)


@pytest.mark.parametrize(
    "word",
    [
        "KILLL",
        "0",
        "65",
        "9" * 5000,
        "-1",
        "RTMIN+31",
        "RTMIN+",
        "RTMIN-1",
        "RTMAX+1",
        "SIG",
        "²",
        "9.0",
    ],
)
def test_what_is_no_signal_is_refused_with_the_valid_ones(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_signals(f"TERM,{word}")
    assert repr(word) in caught.value.message
    assert caught.value.remedy
    assert all(name in caught.value.remedy for name in (*NUMBERS, "all", "RTMIN"))


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_no_signal_at_all_is_refused(text: str) -> None:
    """It would trace, and never show anything."""
    with pytest.raises(UsageError):
        parse_signals(text)


@given(st.text())
def test_any_text_is_signals_or_a_usage_error(text: str) -> None:
    try:
        found = parse_signals(text)
    except UsageError:
        return
    assert found and found <= set(EVERY)


@pytest.mark.parametrize(("word", "number"), [("CLD", 17), ("POLL", 29), ("IOT", 6)])
def test_older_names_are_understood(word: str, number: int) -> None:
    assert getattr(signal, f"SIG{word}") == number
    assert parse_signals(word) == {number}


# Codes


def declared_codes() -> dict[str, int]:
    """What the C library's own header says."""
    names = "ILL FPE SEGV BUS TRAP CLD POLL SYS SI"
    prefixes = "|".join(names.split())
    source = "#define _GNU_SOURCE\n#include <signal.h>\n"
    flags = ["-E", "-dM", "-x", "c", "-"]
    macros = subprocess.run(
        ["clang", *flags], input=source, capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(rf"^#define ((?:{prefixes})_[A-Z_]+) \1$", macros, re.MULTILINE)
    source += "".join(f"int value_{name} = {name};\n" for name in found)
    flags = ["-S", "-emit-llvm", "-O1", "-o", "-", "-x", "c", "-"]
    compiled = subprocess.run(
        ["clang", *flags], input=source, capture_output=True, text=True, check=True
    ).stdout
    values = re.findall(r"@value_(\w+) = .*global i32 (-?\d+)", compiled)
    return {name: int(value) for name, value in values}


def test_codes_have_the_names_of_the_header() -> None:
    owners = {"CLD": "CHLD", "POLL": "IO", "SI": "USR1"}
    codes = declared_codes()
    assert len(codes) > 40
    for name, value in codes.items():
        prefix = name.partition("_")[0]
        if name in ("FPE_FLTUNK", "FPE_CONDTRAP"):
            continue
        assert code_name(NUMBERS[owners.get(prefix, prefix)], value) == name


def test_a_code_means_something_else_for_each_signal() -> None:
    assert code_name(signal.SIGSEGV, 1) == "SEGV_MAPERR"
    assert code_name(signal.SIGCHLD, 1) == "CLD_EXITED"
    assert code_name(signal.SIGTERM, 1) == "1"
    assert code_name(signal.SIGTERM, -99) == "-99"
    assert code_name(signal.SIGSEGV, 0) == "SI_USER"
    assert code_name(signal.SIGSEGV, 0x80) == "SI_KERNEL"
