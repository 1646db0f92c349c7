# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, fetched by package name and kept outside the tree.

apt does the work, signatures and all, in a directory of its own: nothing of this system changes.
Where the packages lie is derived from the machine's own sources by changing the suite.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "linux-image-cloud-amd64"
Say = Callable[[str], None]


class LabError(Exception):
    """The lab itself cannot work; says what to do about it."""


@dataclass(frozen=True)
class Suite:
    """A Debian suite, and the series of the kernel it had when the tests were written; and the
    backends in its guest, the first of which is the one that it is for. Those that are not
    `in_tests` are for `make lab` alone, which may take longer than `make test`."""

    name: str
    series: str
    backends: tuple[str, ...] = ("core",)
    has_security: bool = True
    in_tests: bool = True

    def __str__(self) -> str:
        return f"{self.label}-{self.name}"

    @property
    def backend(self) -> str:
        return self.backends[0]

    @property
    def label(self) -> str:
        return self.series if self.backend == "core" else f"{self.series}-{self.backend}"


@dataclass(frozen=True)
class Kernel:
    """`root` is the directory that its packages were unpacked into."""

    release: str
    image: Path
    modules: Path
    root: Path

    def module(self, name: str) -> list[tuple[str, bytes]]:
        """A module after those it needs, each by name and content; none that is built in."""
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
        """File names have - where module names have _, sometimes."""
        pattern = re.sub("[-_]", "[-_]", name) + ".ko*"
        return next(self.modules.glob(f"kernel/**/{pattern}"), None)


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "ktrace", "lab")


def fetched(suite: Suite, say: Say, refresh: bool = False) -> Kernel:
    """The suite's newest kernel as of the first time it was asked for, or as of now."""
    directory = cache() / suite.name
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        root = directory / "root"
        if refresh or not root.exists():
            _fetch(suite, directory, root, say)
        return found(suite.name, root)


def fetched_headers(suite: Suite, kernel: Kernel, say: Say) -> Path:
    """A root directory with the headers of exactly this kernel."""
    if (kernel.root / "usr" / "src" / f"linux-headers-{kernel.release}").exists():
        return kernel.root
    directory = cache() / suite.name
    root = directory / f"headers-{kernel.release}"
    with locked(directory):
        if not root.exists():
            apt = _Apt(suite, directory)
            if not apt.knows(f"linux-headers-{kernel.release}"):
                apt.update()
            _unpack(apt, apt.header_packages(kernel.release), directory, root, say)
    return root


def _fetch(suite: Suite, directory: Path, root: Path, say: Say) -> None:
    apt = _Apt(suite, directory)
    say(f"fetching the package lists of {suite.name}")
    apt.update()
    _unpack(apt, apt.kernel_packages(), directory, root, say)


def _unpack(apt: _Apt, packages: Sequence[str], directory: Path, root: Path, say: Say) -> None:
    fresh = directory / "unpacked"
    for leftover in (fresh, directory / "packages"):
        shutil.rmtree(leftover, ignore_errors=True)
    (directory / "packages").mkdir()
    for package in packages:
        say(f"fetching {package} ({apt.megabytes(package):.0f} MB)")
        apt.run("apt-get", "download", package, cwd=directory / "packages")
    for archive in (directory / "packages").iterdir():
        subprocess.run(["dpkg", "-x", archive, fresh], check=True)
        archive.unlink()
    shutil.rmtree(root, ignore_errors=True)
    fresh.rename(root)


def found(suite: str, root: Path) -> Kernel:
    """In what a suite's packages brought."""
    trees = [path for top in ("lib", "usr/lib") for path in root.glob(f"{top}/modules/*")]
    for tree in trees:
        for image in (root / "boot" / f"vmlinuz-{tree.name}", tree / "vmlinuz"):
            if image.exists():
                return Kernel(tree.name, image, tree, root)
    raise LabError(f"no kernel in what {suite}'s packages brought: remove {root}")


class _Apt:
    """apt with every file of its own below one directory."""

    def __init__(self, suite: Suite, directory: Path) -> None:
        self._suite = suite
        for place in ("lists/partial", "cache/archives/partial"):
            (directory / place).mkdir(parents=True, exist_ok=True)
        self._sources = directory / "sources.list"
        self._options = [
            f"Dir::Etc::sourcelist={self._sources}",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::Lists={directory}/lists",
            f"Dir::Cache={directory}/cache",
            "Dir::State::status=/dev/null",
            "APT::Architecture=amd64",
            "APT::Architectures=amd64",
            # its own user may not write below a home directory
            f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}",
            "Acquire::Retries=3",
            "Acquire::Languages=none",
        ]

    def update(self) -> None:
        """The suite must be there; its security updates may have moved to an archive."""
        main, security = archives()
        lines = [f"deb {main} {self._suite.name} main\n"]
        if security and self._suite.has_security:
            self._sources.write_text(
                "".join([*lines, f"deb {security} {self._suite.name}-security main\n"])
            )
            try:
                self.run("apt-get", "update", "--error-on=any")
                return
            except LabError:
                pass
        self._sources.write_text("".join(lines))
        self.run("apt-get", "update", "--error-on=any")

    def kernel_packages(self) -> list[str]:
        """The one package of an image, or the several it is split into."""
        told = self.run("apt-cache", "depends", "--recurse", "--important", PACKAGE)
        names = set(re.findall(r"^linux-(?:image|binary|modules)-\d\S*$", told, re.MULTILINE))
        if not names:
            raise LabError(f"{self._suite.name} has no package {PACKAGE} that brings a kernel")
        return sorted(names)

    def knows(self, package: str) -> bool:
        return bool(self.run("apt-cache", "search", "--names-only", f"^{re.escape(package)}$"))

    def header_packages(self, release: str) -> list[str]:
        """A kernel's own headers, and those that it has in common with its siblings."""
        told = self.run("apt-cache", "depends", f"linux-headers-{release}")
        common = re.findall(r"Depends: (linux-headers-\d\S*-common\S*)$", told, re.MULTILINE)
        if not common:
            raise LabError(f"{self._suite.name} no longer has the headers of {release}: --refresh")
        return [f"linux-headers-{release}", *common]

    def megabytes(self, package: str) -> float:
        told = self.run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Size: (\d+)$", told, re.MULTILINE)
        return int(found[1]) / 1e6 if found else 0

    def run(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        options = [word for option in self._options for word in ("-o", option)]
        done = subprocess.run(
            [command, *options, "-q", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise LabError(
                f"{command} {' '.join(arguments)} for {self._suite.name}: "
                + (" ".join(complaints) or done.stderr.strip())
            )
        return done.stdout


def archives() -> tuple[str, str | None]:
    """Where this machine gets Debian and its security updates from."""
    wanted = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)"
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    own = [line.split() for line in told.stdout.splitlines()]
    debian = {row[1]: row[3] for row in own if row[0] == "Debian" and row[2] == "main"}
    main = next((uri for name, uri in debian.items() if "-" not in name), None)
    if main is None:
        raise LabError("apt knows no Debian archive to fetch kernels from: apt-get update")
    return main, next((u for name, u in debian.items() if name.endswith("-security")), None)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Two labs at once fetch once. The wait is bounded by what the other one may take."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
