# SPDX-License-Identifier: Apache-2.0
"""Debian packages, fetched by name and kept outside the tree.

apt does the work, including signatures, in a directory of its own: this system does not change. The
address of the packages follows from the machine's own sources, with another suite.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


class FetchError(Exception):
    """A file that is needed cannot be fetched; the message says what to do."""


def cache() -> Path:
    """The directory for files that are fetched or made once, for all clones of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "ktrace")


class Apt:
    """apt with all of its files below one directory. `security` adds the suite's security updates;
    `sources` the lists of source packages."""

    def __init__(
        self,
        suite: str,
        directory: Path,
        *,
        security: bool = True,
        sources: bool = False,
        architecture: str = "amd64",
    ) -> None:
        self.suite = suite
        self._directory = directory
        self._security = security
        self._kinds = ("deb", "deb-src") if sources else ("deb",)
        for place in ("lists/partial", "cache/archives/partial"):
            (directory / place).mkdir(parents=True, exist_ok=True)
        self._sources = directory / "sources.list"
        self._options = [
            f"Dir::Etc::sourcelist={self._sources}",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::Lists={directory}/lists",
            f"Dir::Cache={directory}/cache",
            "Dir::State::status=/dev/null",
            f"APT::Architecture={architecture}",
            f"APT::Architectures={architecture}",
            # apt's own user may not write below a home directory
            f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}",
            "Acquire::Retries=3",
            "Acquire::Languages=none",
        ]

    def update(self) -> None:
        """Fetches the lists. The suite must exist; its security updates may have moved to an
        archive."""
        main, security = archives()
        lines = [f"{kind} {main} {self.suite} main\n" for kind in self._kinds]
        if security and self._security:
            more = [f"{kind} {security} {self.suite}-security main\n" for kind in self._kinds]
            self._sources.write_text("".join([*lines, *more]))
            try:
                self.run("apt-get", "update", "--error-on=any")
                return
            except FetchError:
                pass
        self._sources.write_text("".join(lines))
        self.run("apt-get", "update", "--error-on=any")

    def knows(self, package: str) -> bool:
        return bool(self.run("apt-cache", "search", "--names-only", f"^{re.escape(package)}$"))

    def megabytes(self, package: str) -> float:
        told = self.run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Size: (\d+)$", told, re.MULTILINE)
        return int(found[1]) / 1e6 if found else 0

    def unpack(self, packages: Sequence[str], root: Path, say: Say) -> None:
        """Unpacks into a directory that appears only once all packages are in it."""
        fresh, fetched = self._directory / "unpacked", self._directory / "packages"
        for leftover in (fresh, fetched):
            shutil.rmtree(leftover, ignore_errors=True)
        fetched.mkdir()
        for package in packages:
            say(f"fetching {package} ({self.megabytes(package):.0f} MB)")
            self.run("apt-get", "download", package, cwd=fetched)
        for archive in fetched.iterdir():
            subprocess.run(["dpkg", "-x", archive, fresh], check=True)
            archive.unlink()
        shutil.rmtree(root, ignore_errors=True)
        fresh.rename(root)

    def needed(self, packages: Sequence[str]) -> list[str]:
        """The packages and all their dependencies, from nothing."""
        told = self.run(
            "apt-get", "install", "--simulate", "--no-install-recommends", "--yes", *packages
        )
        return re.findall(r"^Inst (\S+)", told, re.MULTILINE)

    def fetched(self, packages: Sequence[str]) -> list[Path]:
        """The packages' archives. The caller removes them."""
        place = self._directory / "packages"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.run("apt-get", "download", *packages, cwd=place)
        return sorted(place.iterdir())

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
            raise FetchError(
                f"{command} {' '.join(arguments)} for {self.suite}: "
                + (" ".join(complaints) or done.stderr.strip())
            )
        return done.stdout


def archives() -> tuple[str, str | None]:
    """The addresses of this machine's Debian and its security updates."""
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
        raise FetchError("apt knows no Debian archive to fetch packages from: apt-get update")
    return main, next((u for name, u in debian.items() if name.endswith("-security")), None)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Two concurrent callers fetch only once. The wait is limited by the longest time of a
    fetch."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
