# SPDX-License-Identifier: Apache-2.0
"""The wheel is installed with the Python of other systems, by their own pip, and traces there with
the libbpf that it brings."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy import ROOT, BuildError
from deploy.architecture import ARCHITECTURES, Architecture, wanted
from deploy.wheel.build import check, set_modes
from deploy.wheel.sysroot import sysroot
from tests.deploy.nodes import debian, traces_kills
from tests.support import bundle as made

# trixie's is 3.13. Of the oldest that will do there is no Debian: it is tried where one is found.
SUITE = "trixie"
OLDEST = "3.10"
KERNELS_NAME = {"amd64": "x86", "arm64": "arm64"}
LIBRARY = "tracer/libraries/libbpf.so.1"
LOADED = (
    "from tracer.backends.libbpf import Libbpf; Libbpf(); print(open('/proc/self/maps').read())"
)


@pytest.fixture(scope="module")
def wheel(bundle: Path) -> Path:
    return made.wheel(bundle)


def older_pythons() -> list[Path]:
    found = [shutil.which(f"python{OLDEST}")]
    found += [*map(str, Path.home().glob(f".pyenv/versions/{OLDEST}.*/bin/python{OLDEST}"))]
    return [Path(path) for path in found if path and works(path)]


def works(python: str) -> bool:
    """A version manager's stand-in may be for one that is not chosen."""
    done = subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.usefixtures("root")
@pytest.mark.timeout(600)  # the suite is unpacked the first time
def test_the_python_of_another_suite(wheel: Path, tmp_path: Path) -> None:
    node = debian(SUITE, tmp_path, ("python3-venv",))
    version = node.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    assert version == "3.13"
    fetch(wheel, version, node.root / "wheels")
    node.run("python3", "-m", "venv", "/opt/ktrace")
    node.run("/opt/ktrace/bin/pip", "install", "--no-index", "--find-links=/wheels", "ktrace")
    told = node.run("/opt/ktrace/bin/python", "-c", LOADED)
    assert loaded(told) == {f"/opt/ktrace/lib/python{version}/site-packages/{LIBRARY}"}
    traces_kills(node.command("/opt/ktrace/bin/ktrace"), node.root / "ready")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("python", [Path("/usr/bin/python3"), *older_pythons()[:1]], ids=str)
def test_a_python_of_this_machine(wheel: Path, python: Path, tmp_path: Path) -> None:
    shown = "import sys; print('%d.%d' % sys.version_info[:2])"
    fetch(wheel, said(str(python), "-c", shown).strip(), tmp_path / "wheels")
    place = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", place], check=True)
    install = ["install", "-q", "--no-index", f"--find-links={tmp_path / 'wheels'}", "ktrace"]
    subprocess.run([place / "bin" / "pip", *install], check=True)
    traces_kills([str(place / "bin" / "ktrace")], tmp_path / "ready", str(tmp_path / "ready"))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.debian)
def test_programs_for_every_architecture(architecture: Architecture) -> None:
    """Each is compiled with the headers of its own, whichever this machine is."""
    words = ["clang", "-fsyntax-only", "-target", "bpf", "-Wall", "-Wextra", "-Werror"]
    words += ["-Wno-unused-parameter", f"-D__TARGET_ARCH_{KERNELS_NAME[architecture.debian]}"]
    words += [f"-I{sysroot(architecture, print) / 'include'}", f"-I{ROOT / 'probes' / 'include'}"]
    programs = sorted(map(str, (ROOT / "probes").glob("*.bpf.c")))
    told = subprocess.run([*words, *programs], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_a_wheel_that_needs_more_than_its_name_says(wheel: Path, tmp_path: Path) -> None:
    """With a library of this system, whose C library is younger than 2012."""
    spoilt = tmp_path / wheel.name
    younger = re.search(r"=> (\S*libelf\S*)", said("ldconfig", "-p"))
    assert younger
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(spoilt, "w") as other:
        for item in whole.infolist():
            same = item.filename != LIBRARY
            other.writestr(item, whole.read(item) if same else Path(younger[1]).read_bytes())
    check(wheel, wanted())
    with pytest.raises(BuildError, match="needs more than its name says"):
        check(spoilt, wanted())


def test_modes_of_nobodys_umask(tmp_path: Path) -> None:
    """They say what is a program, and nothing else."""
    wheels = []
    for mode in (0o640, 0o600):
        wheels.append(tmp_path / f"{mode}.whl")
        with zipfile.ZipFile(wheels[-1], "w", zipfile.ZIP_DEFLATED) as archive:
            for name, more in (("words", 0), ("program", 0o100)):
                item = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
                item.external_attr = (stat.S_IFREG | mode | more) << 16
                archive.writestr(item, name * 99)
        set_modes(wheels[-1])
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as archive:
        assert archive.read("program") == b"program" * 99
        assert [item.external_attr >> 16 & 0o777 for item in archive.infolist()] == [0o644, 0o755]


def fetch(wheel: Path, version: str, into: Path) -> None:
    """The wheel and all that it needs, for another Python."""
    into.mkdir()
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    command += ["--python-version", version, "--only-binary=:all:", "--dest", str(into)]
    # the newest of the C library that this machine and those suites have
    command += [f"--platform=manylinux_2_{minor}_{wanted().machine}" for minor in (17, 28)]
    command += [f"--platform=manylinux2014_{wanted().machine}", str(wheel)]
    if version == OLDEST:  # what a condition asks of the running Python
        command.append("tomli>=2")
    subprocess.run(command, check=True)


def loaded(maps: str) -> set[str]:
    return set(re.findall(r"/\S*libbpf\S*", maps))


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
