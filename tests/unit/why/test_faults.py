# SPDX-License-Identifier: Apache-2.0
"""Names of functions from programs' own symbols, and files that mean harm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wait import wait_for
from tests.unit.why.world import process
from tracer.decode.faults import parse
from tracer.kernel.kmsg import Line
from tracer.model.cgroup import CgroupIdentity
from tracer.why import crash
from tracer.why.crash import FaultFinder, function_at

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


@settings(suppress_health_check=list(HealthCheck), max_examples=200)
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
        assert crash._read(fd, "/bin/app") == b"inside"
        assert crash._read(fd, "/absolute") == b"inside"
        for path in ("/outside", "/above", "/../secret", "/bin", "/pipe", "/none"):
            with pytest.raises((OSError, ValueError)):
                crash._read(fd, path)
    finally:
        os.close(fd)


def test_a_library_of_a_package(tmp_path: Path) -> None:
    """The kernel tells its name without a path. Links that lead in circles end the search."""
    deep = tmp_path / "opt/venv/lib/python3.11/site-packages/fast/core"
    deep.mkdir(parents=True)
    (deep / "_speed.cpython-311.so").touch()
    (deep.parent / "again").symlink_to("..")
    debian = tmp_path / "usr/lib/python3/dist-packages"
    debian.mkdir(parents=True)
    (debian / "_slow.so").touch()
    python = process(1, "python3", exe="/usr/bin/python3.11")
    python.argv = ["/opt/venv/bin/python3", "/app/server.py"]
    root = os.open(tmp_path, os.O_PATH)
    try:
        found = {
            name: list(crash._packages(root, name, python))
            for name in ("_speed.cpython-311.so", "_slow.so", "_none.so")
        }
    finally:
        os.close(root)
    assert found == {
        "_speed.cpython-311.so": [
            "/opt/venv/lib/python3.11/site-packages/fast/core/_speed.cpython-311.so"
        ],
        "_slow.so": ["/usr/lib/python3/dist-packages/_slow.so"],
        "_none.so": [],
    }


def test_a_library_that_the_master_has_mapped(tmp_path: Path) -> None:
    """Its ancestors beyond the container have another root."""
    libc = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so" in line or "libc-" in line
    )
    worker = process(1, "worker", parents=[(os.getpid(), "master")])
    for place, expected in (("/", [libc]), (str(tmp_path), [])):
        root = os.open(place, os.O_PATH)
        try:
            assert list(crash._mapped(root, Path(libc).name, worker)) == expected
            assert list(crash._mapped(root, "none.so", worker)) == []
        finally:
            os.close(root)


@given(st.text(max_size=200))
def test_any_line(text: str) -> None:
    parse(text)


def test_where_a_module_is_looked_for() -> None:
    assert list(crash._candidates("app", "/srv/app")) == ["/srv/app"]
    assert "/usr/lib/libc.so.6" in list(crash._candidates("libc.so.6", "/srv/app"))
    assert list(crash._candidates("../../etc/shadow", "/srv/app")) == []


def test_a_root_that_is_still_that_of_who_started_it_is_not_held() -> None:
    """As runc's first process has it, before it changes to the container's."""
    sleep = ("sleep", "60")
    with subprocess.Popen(sleep) as prepared:
        try:
            assert crash._own_root(prepared.pid) is None
        finally:
            prepared.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="a root of its own takes root")
def test_a_root_of_its_own_is_held(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, tmp_path / "busybox")
    command = ("chroot", str(tmp_path), "/busybox", "sleep", "60")
    with subprocess.Popen(command) as container:
        try:
            root = wait_for("its root", lambda: crash._own_root(container.pid))
            assert os.path.samestat(os.fstat(root), tmp_path.stat())
            os.close(root)
        finally:
            container.kill()


POD, ONE, OTHER = "5016bc16-7c78-4389-a89c-9c971211370b", "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        (f"/kubepods/burstable/pod{POD}/{ONE}", (True, False)),
        (f"/kubepods/burstable/pod{POD}", (True, True)),  # the pod's limit
        ("/user.slice", (False, False)),
    ],
)
def test_whom_the_kernel_refused_a_process(path: str, refused: tuple[bool, bool]) -> None:
    lines = [Line(7, f"cgroup: fork rejected by pids controller in {path}"), Line(8, "else")]
    finder = FaultFinder()
    finder.close()
    finder._log = SimpleNamespace(read=lambda: lines)  # type: ignore[assignment]
    assert finder.listen()
    found = [finder.refused(CgroupIdentity(POD, one)) for one in (ONE, OTHER)]
    assert [moment == 7 for moment in found] == list(refused)
    assert finder.refused(CgroupIdentity()) is None
