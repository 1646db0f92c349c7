# SPDX-License-Identifier: Apache-2.0
"""What a node has for building programs: its distribution, and its kernel's headers.

Only looks at files, so it costs next to nothing. A missing part is a `Lack` that names its package.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tracer.backends.lack import Lack

# ID and ID_LIKE of os-release(5) → family
_FAMILIES = {"debian": "debian", "ubuntu": "debian", "rhel": "rhel", "fedora": "rhel"}


def family(os_release: Path = Path("/etc/os-release")) -> str | None:
    """`debian`, `rhel`, or None for any other; see os-release(5)."""
    try:
        lines = os_release.read_text(errors="replace").splitlines()
    except OSError:
        return None
    told = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    for word in f"{told.get('ID', '')} {told.get('ID_LIKE', '')}".replace('"', " ").split():
        if word in _FAMILIES:
            return _FAMILIES[word]
    return None


def install(debian: str, rhel: str) -> str:
    """The command that installs a package on this distribution; both if it is unknown."""
    commands = {"debian": f"apt-get install {debian}", "rhel": f"dnf install {rhel}"}
    here = family()
    if here:
        return commands[here]
    return f"{commands['debian']} (Debian, Ubuntu), {commands['rhel']} (RHEL, Fedora)"


@dataclass(frozen=True, slots=True)
class Headers:
    """The kernel headers of a node. `directory` holds exactly the requested release, or is None;
    `others` are the other releases found."""

    release: str
    directory: Path | None
    others: tuple[str, ...]


def headers(release: str | None = None, root: Path = Path("/")) -> Headers:
    """Headers of `release`, by default the running kernel's. A directory with a dangling link has
    none. Headers that name another release count as that release's."""
    wanted = release or platform.release()
    found = {tree.name: tree / "build" for tree in sorted(root.glob("lib/modules/*"))}
    for tree in (*root.glob("usr/src/linux-headers-*"), *root.glob("usr/src/kernels/*")):
        found.setdefault(tree.name.removeprefix("linux-headers-"), tree)
    told = {name: _release_of(tree) for name, tree in found.items()}
    directory = found[wanted] if told.get(wanted) == wanted else None
    others = {called for called in told.values() if called is not None and called != wanted}
    return Headers(wanted, directory, tuple(sorted(others)))


def lacking_headers(release: str | None = None, root: Path = Path("/")) -> list[Lack]:
    """Headers of another release do not count: programs built with them read the wrong members."""
    found = headers(release, root)
    if found.directory:
        return []
    what = f"kernel headers of exactly {found.release}"
    if found.others:
        what += f"; there are those of {', '.join(found.others)}"
    return [Lack(what, install(f"linux-headers-{found.release}", f"kernel-devel-{found.release}"))]


def lockdown(path: Path = Path("/sys/kernel/security/lockdown")) -> str | None:
    """`integrity` or `confidentiality`; None where the kernel is not locked down.
    kernel_lockdown(7)."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    chosen = next((word.strip("[]") for word in words if word.startswith("[")), "none")
    return None if chosen == "none" else chosen


def modules_must_be_signed(
    path: Path = Path("/sys/module/module/parameters/sig_enforce"),
) -> bool:
    """The kernel sets it also for lockdown and for a configuration that forces signatures."""
    try:
        return path.read_text().strip() == "Y"
    except OSError:
        return False


def _release_of(tree: Path) -> str | None:
    """The release that the headers name, as uname(2) reports it; None if there are none."""
    try:
        text = (tree / "include" / "generated" / "utsrelease.h").read_text()
    except OSError:
        return None
    found = re.search(r'#define UTS_RELEASE "([^"]*)"', text)
    return found[1] if found else None
