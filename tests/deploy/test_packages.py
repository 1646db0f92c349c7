# SPDX-License-Identifier: Apache-2.0
"""The packages are installed where they are for, trace there, and leave nothing behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from deploy.architecture import wanted
from deploy.packages.build import COMPLETIONS, PROGRAMS, UNIT_FILES, UNITS, build
from tests.deploy.nodes import Node, debian, traces_kills

# Debian's own lists of packages, which every package changes.
LISTS = ("/var/lib/dpkg/", "/var/log/")


@pytest.fixture(scope="module")
def packages(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    into = tmp_path_factory.mktemp("packages")
    return build(bundle, wanted(), into, level=1)  # of what takes a minute at the usual one


@pytest.mark.usefixtures("root")
def test_a_deb_where_python_and_libc_are_too_old(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    node = debian("bullseye", tmp_path)
    (node.root / "ktrace.deb").write_bytes(packages[0].read_bytes())
    before = node.files()
    node.run("dpkg", "--force-unsafe-io", "--install", "/ktrace.deb")
    assert node.run("dpkg", "--verify", "ktrace") == ""
    units = {f"{UNITS}/{unit.name}" for unit in UNIT_FILES}
    assert {*PROGRAMS, *COMPLETIONS.values(), *units} <= node.files() and len(units) == 2
    assert "killed" in node.run("ktrace", "decode", "137")
    shell = node.command("/bin/sh")
    traces_kills(node.command("/usr/bin/ktrace"), node.root / "ready", shell=shell)
    (node.root / "ready").unlink()
    node.run("dpkg", "--purge", "ktrace")
    assert {path for path in node.files() - before if not path.startswith(LISTS)} == set()
    assert not (node.root / "opt" / "ktrace").exists()


@pytest.mark.usefixtures("root")
def test_an_rpm_where_nothing_else_is(packages: tuple[Path, Path], tmp_path: Path) -> None:
    node = Node(tmp_path)
    rpm = ["rpm", "--root", str(node.root), "--dbpath", "/var/lib/rpm"]
    subprocess.run([*rpm, "--install", str(packages[1])], check=True)
    told = subprocess.run([*rpm, "--verify", "ktrace"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
    asked = [*rpm, "--query", "--requires", "ktrace"]
    needs = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [need for need in needs if need and not need.startswith("rpmlib(")] == []
    traces_kills(node.command("/usr/bin/ktrace"), node.root / "ready")
    (node.root / "ready").unlink()
    subprocess.run([*rpm, "--erase", "ktrace"], check=True)
    assert {path for path in node.files() if not path.startswith("/var/lib/rpm/")} == set()
    assert not (node.root / "opt" / "ktrace").exists()


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    """Of the same files, whenever and by whomever they were written."""
    digests = []
    for moment, mode, mask in ((1, 0o600, 0o077), (2, 0o644, 0o022)):
        bundle = tmp_path / str(moment) / "bundle"
        (bundle / "lib").mkdir(parents=True)
        for name in ("ktrace", "lib/words"):
            (bundle / name).write_text(name)
            (bundle / name).chmod(mode | 0o100 * (name == "ktrace"))
            os.utime(bundle / name, (moment, moment))
        before = os.umask(mask)
        try:
            packages = build(bundle, wanted(), bundle.parent)
        finally:
            os.umask(before)
        digests.append([digest(path) for path in packages])
    assert digests[0] == digests[1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
