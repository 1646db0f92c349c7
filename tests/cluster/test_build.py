# SPDX-License-Identifier: Apache-2.0
"""How the cluster's programs are built, tried with a source that takes no time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploy.debian import Apt, Say, cache
from tests.cluster import build
from tests.cluster.build import ETCD, PROGRAMS, ClusterError
from tests.support.wait import wait_for

# Stops half way for as long as there is a file `stop`, and leaves what would spoil the next attempt
# if it were found. What it has compiled it keeps where Go does.
MAKEFILE = """
all:
	test ! -e half
	echo half >half
	echo compiled >>_output/local/go/cache/compiled
	test ! -e {stop}
	mkdir -p _output/local/bin/linux/amd64
	cd _output/local/bin/linux/amd64 && touch {programs}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source and tools that no archive needs to be asked for. While the file that is returned is
    there, a build of it fails half way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stop = tmp_path / "stop"
    tree = tmp_path / "kubernetes-1.2.3"
    tree.mkdir()
    (tree / "Makefile").write_text(MAKEFILE.format(stop=stop, programs=" ".join(PROGRAMS)))
    archive = tmp_path / "kubernetes_9+really1.2.3.orig.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        out.add(tree, arcname=tree.name)

    def run(self: Apt, command: str, *arguments: str, cwd: Path | None = None) -> str:
        if "source" in arguments and cwd:
            (cwd / archive.name).write_bytes(archive.read_bytes())
        return "  Depends: golang-1.0-go\n"

    def unpack(self: Apt, packages: list[str], root: Path, say: Say) -> None:
        assert set(ETCD) < set(packages)
        (root / "usr/lib/go-1.0/bin").mkdir(parents=True)
        (root / "usr/bin").mkdir()
        for program in ("etcd", "etcdctl"):
            (root / "usr/bin" / program).touch()

    monkeypatch.setattr(Apt, "run", run)
    monkeypatch.setattr(Apt, "update", lambda self: None)
    monkeypatch.setattr(Apt, "unpack", unpack)
    return stop


def test_what_is_kept_is_the_programs_alone(source: Path) -> None:
    said: list[str] = []
    programs = build.binaries(said.append)
    assert {path.name for path in programs.iterdir()} == {*PROGRAMS, "etcd", "etcdctl"}
    assert {path.name for path in programs.parent.iterdir()} == {"bin", "lock"}
    del said[:]
    assert build.binaries(said.append) == programs
    assert not said


def test_an_interrupted_build_is_taken_up(source: Path) -> None:
    """What was compiled is kept, what is half written is not, and nothing looks finished."""
    source.touch()
    for _ in range(2):
        with pytest.raises(ClusterError, match="ended with 2"):
            build.binaries(print)
    place = cache() / "cluster"
    assert not (place / "bin").exists()
    assert (place / "build/compiled/compiled").read_text() == "compiled\n" * 2
    source.unlink()
    assert build.binaries(print) == place / "bin"


def test_no_room_is_said_before_it_begins(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = shutil.disk_usage("/")._replace(free=build.BUILD_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: room)
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"takes 3\.5 GB in .*XDG_CACHE_HOME") as refused:
        build.binaries(said.append)
    assert "3.5 are free" in str(refused.value)
    assert not said
    # what an earlier attempt wrote there is part of what it takes
    earlier = cache() / "cluster/build/compiled/earlier"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(bytes(1 << 20))
    build.binaries(said.append)


def test_nothing_of_a_build_outlives_who_began_it(tmp_path: Path) -> None:
    """However that ended: the next one would run into its files."""
    program = (
        "import pathlib, sys; from tests.cluster.build import run; "
        "run(['sh', '-c', 'sleep 1000 & echo $$ >began; wait'],"
        " pathlib.Path(sys.argv[1]), {'PATH': '/usr/bin:/bin'}, pathlib.Path(sys.argv[1], 'log'),"
        " print)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as builder:
        wait_for("the build to begin", (tmp_path / "began").exists)
        assert working_in(tmp_path)
        builder.send_signal(signal.SIGKILL)
    wait_for("its processes to end", lambda: not working_in(tmp_path))


def working_in(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == place:
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("archive", ["kubernetes_1.20.5+really1.20.2.orig.tar.gz"])
def test_the_version_is_the_one_it_really_is(archive: str) -> None:
    assert "KUBE_GIT_VERSION=v1.20.2\nKUBE_GIT_MAJOR=1\nKUBE_GIT_MINOR=20\n" in build._version_file(
        archive
    )
