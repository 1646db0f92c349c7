# SPDX-License-Identifier: Apache-2.0
"""Debian packages, fetched by name and kept outside the tree.

apt does the work, signatures and all, in a directory of its own: nothing of this system changes.
Where the packages lie is derived from the machine's own sources by changing the suite.
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
    """What the tests need cannot be fetched; says what to do about it."""


def cache() -> Path:
    """What is fetched or made once, for all clones of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "ktrace")


class Apt:
    """apt with every file of its own below one directory. `security` asks for the suite's security
    updates, too; `sources` for the lists of source packages."""

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
            # its own user may not write below a home directory
            f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}",
            "Acquire::Retries=3",
            "Acquire::Languages=none",
        ]

    def update(self) -> None:
        """The suite must be there; its security updates may have moved to an archive."""
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
        """Into a directory that is there only when all of them are in it."""
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
        """All that has to be there for these, from nothing."""
        told = self.run(
            "apt-get", "install", "--simulate", "--no-install-recommends", "--yes", *packages
        )
        return re.findall(r"^Inst (\S+)", told, re.MULTILINE)

    def fetched(self, packages: Sequence[str]) -> list[Path]:
        """Their archives, which are the caller's to remove."""
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
        raise FetchError("apt knows no Debian archive to fetch packages from: apt-get update")
    return main, next((u for name, u in debian.items() if name.endswith("-security")), None)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Two at once fetch once. The wait is bounded by what the other one may take."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
