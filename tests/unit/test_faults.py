# SPDX-License-Identifier: Apache-2.0
"""Names of functions from programs' own symbols, and files that mean harm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer import faults
from tracer.faults import function_at, parse

SOURCE = "int second(int x) { return x * 3; }\nint main(void) { return second(1); }\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "app.c").write_text(SOURCE)
    app = folder / "app"
    subprocess.run(["clang", "-O0", "-o", app, folder / "app.c"], check=True)
    return app


def address_of(program: Path, function: str) -> int:
    listing = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    return next(
        int(line.split()[0], 16) for line in listing.splitlines() if line.endswith(function)
    )


def executable_segment(program: Path) -> tuple[int, int]:
    """Offset in the file and address."""
    listing = subprocess.run(
        ["readelf", "-lW", program], check=True, capture_output=True, text=True
    ).stdout
    row = next(r.split() for r in listing.splitlines() if "LOAD" in r and " R E " in r)
    return int(row[1], 16), int(row[2], 16)


@pytest.mark.parametrize("function", ["second", "main"])
def test_the_function_at_an_offset_of_the_file(program: Path, function: str) -> None:
    offset, address = executable_segment(program)
    at = address_of(program, f" {function}") + 4 - address + offset
    assert function_at(program.read_bytes(), at, in_file=True) == function


def test_the_function_behind_the_beginning_of_the_mapping(program: Path) -> None:
    """As kernels before 6.12 tell it: the mapping begins with the segment's page."""
    _, address = executable_segment(program)
    behind = address_of(program, " second") + 4 - (address & ~0xFFF)
    assert function_at(program.read_bytes(), behind, in_file=False) == "second"


def test_an_offset_of_no_function(program: Path) -> None:
    assert function_at(program.read_bytes(), 0, in_file=True) is None
    assert function_at(program.read_bytes(), 1 << 40, in_file=True) is None


def test_what_is_no_program() -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(60)):
        try:
            assert function_at(data, 4, in_file=True) is None
        except ValueError:
            continue


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_a_program_with_bytes_changed(program: Path, data: st.DataObject) -> None:
    """Whatever a container's file says: a name, nothing, or ValueError."""
    raw = bytearray(program.read_bytes())
    headers = st.integers(0, 0x300)
    tail = st.integers(len(raw) - 0x800, len(raw) - 1)
    for at in data.draw(st.lists(st.one_of(headers, tail), max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        function_at(bytes(raw), data.draw(st.integers(0, 1 << 16)), in_file=True)
    except ValueError:
        pass


def test_links_stay_within_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (root / "bin" / "app").write_text("inside")
    (root / "absolute").symlink_to("/bin/app")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "above").symlink_to("../secret")
    os.mkfifo(root / "pipe")
    fd = os.open(root, os.O_PATH)
    try:
        assert faults._read(fd, "/bin/app") == b"inside"
        assert faults._read(fd, "/absolute") == b"inside"
        for path in ("/outside", "/above", "/../secret", "/bin", "/pipe", "/none"):
            with pytest.raises((OSError, ValueError)):
                faults._read(fd, path)
    finally:
        os.close(fd)


@given(st.text(max_size=200))
def test_any_line(text: str) -> None:
    parse(text)


def test_where_a_module_is_looked_for() -> None:
    assert list(faults._candidates("app", "/srv/app")) == ["/srv/app"]
    assert "/usr/lib/libc.so.6" in list(faults._candidates("libc.so.6", "/srv/app"))
    assert list(faults._candidates("../../etc/shadow", "/srv/app")) == []
