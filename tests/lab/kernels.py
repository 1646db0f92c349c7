# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, fetched by package name and kept outside the tree."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass, replace
from pathlib import Path

from deploy import debian
from deploy.debian import Apt, Say, locked

PACKAGE = "linux-image-cloud-{}"
OWN = "amd64"


class LabError(Exception):
    """The lab itself cannot work; the message says what to do."""


@dataclass(frozen=True)
class Suite:
    """A Debian suite, with the series of its kernel when the tests were written, and the guest's
    backends, the first being the one it is for. Only `make lab`, which may take longer than
    `make test`, runs suites that are not `in_tests`; of a suite with `brief` tests `make test` runs
    only those. `architecture` is Debian's name; if it is not this machine's, it is part of the
    guest's name."""

    name: str
    series: str
    backends: tuple[str, ...] = ("core",)
    has_security: bool = True
    in_tests: bool = True
    brief: tuple[str, ...] = ()
    architecture: str = OWN

    def __str__(self) -> str:
        return f"{self.label}-{self.name}"

    @property
    def backend(self) -> str:
        return self.backends[0]

    @property
    def label(self) -> str:
        parts = [self.series] if self.backend == "core" else [self.series, self.backend]
        return "-".join(parts if self.architecture == OWN else [*parts, self.architecture])

    @property
    def place(self) -> Path:
        """The directory for its fetched files."""
        own = self.architecture == OWN
        return cache() / (self.name if own else f"{self.name}-{self.architecture}")


@dataclass(frozen=True)
class Kernel:
    """`root` is the directory with its unpacked packages."""

    release: str
    image: Path
    modules: Path
    root: Path
    architecture: str = OWN

    def module(self, name: str) -> list[tuple[str, bytes]]:
        """A module after its dependencies, each by name and content; without built-in ones."""
        path = self._path(name)
        if path is None:
            return []
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        needed = found[1].decode().split(",") if found and found[1] else []
        return [*(each for other in needed for each in self.module(other)), (name, data)]

    def _path(self, name: str) -> Path | None:
        """File names sometimes have - where module names have _."""
        pattern = re.sub("[-_]", "[-_]", name) + ".ko*"
        return next(self.modules.glob(f"kernel/**/{pattern}"), None)


def cache() -> Path:
    return debian.cache() / "lab"


def fetched(suite: Suite, say: Say, refresh: bool = False) -> Kernel:
    """The suite's newest kernel at the time of the first request; with `refresh` as of now."""
    directory = suite.place
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        root = directory / "root"
        if refresh or not root.exists():
            _fetch(suite, directory, root, say)
        return replace(found(suite.name, root), architecture=suite.architecture)


def fetched_headers(suite: Suite, kernel: Kernel, say: Say) -> Path:
    """A root directory with the headers of exactly this kernel."""
    if (kernel.root / "usr" / "src" / f"linux-headers-{kernel.release}").exists():
        return kernel.root
    directory = suite.place
    root = directory / f"headers-{kernel.release}"
    with locked(directory):
        if not root.exists():
            apt = _apt(suite, directory)
            if not apt.knows(f"linux-headers-{kernel.release}"):
                apt.update()
            apt.unpack(_header_packages(apt, kernel.release), root, say)
    return root


def _fetch(suite: Suite, directory: Path, root: Path, say: Say) -> None:
    apt = _apt(suite, directory)
    say(f"fetching the package lists of {suite.name}")
    apt.update()
    apt.unpack(_kernel_packages(apt, suite), root, say)


def _apt(suite: Suite, directory: Path) -> Apt:
    return Apt(suite.name, directory, security=suite.has_security, architecture=suite.architecture)


def _kernel_packages(apt: Apt, suite: Suite) -> list[str]:
    """An image's only package, or the several packages it is split into."""
    package = PACKAGE.format(suite.architecture)
    told = apt.run("apt-cache", "depends", "--recurse", "--important", package)
    names = set(re.findall(r"^linux-(?:image|binary|modules)-\d\S*$", told, re.MULTILINE))
    if not names:
        raise LabError(f"{apt.suite} has no package {package} that brings a kernel")
    return sorted(names)


def _header_packages(apt: Apt, release: str) -> list[str]:
    """A kernel's own headers, and those shared with its siblings."""
    told = apt.run("apt-cache", "depends", f"linux-headers-{release}")
    common = re.findall(r"Depends: (linux-headers-\d\S*-common\S*)$", told, re.MULTILINE)
    if not common:
        raise LabError(f"{apt.suite} no longer has the headers of {release}: --refresh")
    return [f"linux-headers-{release}", *common]


def found(suite: str, root: Path) -> Kernel:
    """The kernel in a suite's unpacked packages."""
    trees = [path for top in ("lib", "usr/lib") for path in root.glob(f"{top}/modules/*")]
    for tree in trees:
        for image in (root / "boot" / f"vmlinuz-{tree.name}", tree / "vmlinuz"):
            if image.exists():
                return Kernel(tree.name, image, tree, root)
    raise LabError(f"no kernel in what {suite}'s packages brought: remove {root}")
