# SPDX-License-Identifier: Apache-2.0
"""Debian's packages for a bundle's interpreter and libraries: of the bundle's architecture,
unpacked and not installed. They are kept outside the tree until other packages are wanted."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deploy import BuildError
from deploy.architecture import Architecture
from deploy.bundle.elf import interpreter, is_elf, needed
from deploy.debian import Apt, Say, cache, locked

SUITE = "bookworm"
PYTHON = "python3.11"
# The interpreter with its modules. Their dependencies are unpacked, too.
INTERPRETER = (f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib")
LIBRARIES = ("libgcc-s1", "libstdc++6")  # needed by wheels


@dataclass(frozen=True)
class Package:
    """Debian's description of a package, and its files."""

    name: str
    version: str
    source: str
    architecture: str
    files: frozenset[str]


@dataclass(frozen=True)
class System:
    root: Path
    architecture: Architecture

    @cached_property
    def packages(self) -> list[Package]:
        told = json.loads((self.root / "packages.json").read_text())
        return [Package(**{**one, "files": frozenset(one["files"])}) for one in told]

    def package(self, name: str) -> Package:
        return next(one for one in self.packages if one.name == name)

    def owner(self, file: Path) -> Package:
        """The package that contains `file`. On a merged /usr it may list the older path."""
        path = "/" + str(file.relative_to(self.root))
        for one in self.packages:
            if one.files & {path, path.removeprefix("/usr")}:
                return one
        raise BuildError(f"no package of {SUITE} has brought {path}")

    def libraries(self, files: Iterable[Path]) -> dict[str, Path]:
        """The libraries that `files` need, by name, including indirect ones. Libraries among
        `files` are skipped."""
        waiting = [file for file in files if is_elf(file)]
        own = {file.name for file in waiting}
        found: dict[str, Path] = {}
        while waiting:
            file = waiting.pop()
            for name in needed(file):
                if name not in found and name not in own:
                    found[name] = self._place(name)
                    waiting.append(found[name])
        return found

    def loader(self, program: Path) -> Path:
        """The program's ELF interpreter."""
        path = interpreter(program)
        return self._place(Path(path).name)

    def _place(self, name: str) -> Path:
        triplet = self.architecture.triplet
        for directory in (f"usr/lib/{triplet}", f"lib/{triplet}", "lib64", "lib"):
            place = self.root / directory / name
            if place.exists():
                return place.resolve()
        raise BuildError(f"{name} is in none of the packages that were unpacked for the bundle")


def system(architecture: Architecture, say: Say) -> System:
    directory = cache() / "bundle"
    directory.mkdir(parents=True, exist_ok=True)
    told = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    finished = directory / f"{architecture.debian}-{told}"
    if not finished.exists():
        with locked(directory):
            if not finished.exists():
                _unpack(architecture, directory, finished, say)
    return System(finished, architecture)


def _unpack(architecture: Architecture, directory: Path, finished: Path, say: Say) -> None:
    apt = Apt(SUITE, directory / "apt", architecture=architecture.debian)
    say(f"fetching the package lists of {SUITE}")
    apt.update()
    fresh = directory / f"{architecture.debian}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    say(f"fetching {PYTHON} for {architecture.debian}")
    described = []
    for archive in apt.fetched(apt.needed([*INTERPRETER, *LIBRARIES])):
        subprocess.run(["dpkg-deb", "--extract", archive, fresh], check=True)
        described.append(_described(archive))
        archive.unlink()
    (fresh / "packages.json").write_text(json.dumps(described))
    fresh.rename(finished)


def _described(archive: Path) -> dict[str, object]:
    wanted = "${Package}\t${Version}\t${source:Package}\t${Architecture}"
    name, version, source, machine = _said(
        "dpkg-deb", "--show", f"--showformat={wanted}", archive
    ).split("\t")
    return {
        **{"name": name, "version": version, "source": source, "architecture": machine},
        "files": sorted(_files(archive)),
    }


def _files(archive: Path) -> Iterator[str]:
    for line in _said("dpkg-deb", "--contents", archive).splitlines():
        path = line.split(maxsplit=5)[5].partition(" -> ")[0]
        if not path.endswith("/"):
            yield path.removeprefix(".")


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
