# SPDX-License-Identifier: Apache-2.0
"""A bundle as a package for Debian's family and for Red Hat's.

Both install the same tree: the bundle in /opt, the program on the PATH, shell completions. They
have no dependencies and no scripts, and are the same wherever they are built.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from deploy import ROOT, BuildError, made_at, version
from deploy.architecture import Architecture
from deploy.bundle.build import set_modes

HOME = "/opt/ktrace"
# Under the second name the launcher is the plugin of kubectl.
PROGRAMS = ("/usr/bin/ktrace", "/usr/bin/kubectl-ktrace")
COMPLETIONS = {
    "bash": "/usr/share/bash-completion/completions/ktrace",
    "fish": "/usr/share/fish/vendor_completions.d/ktrace.fish",
    "zsh": "/usr/share/zsh/site-functions/_ktrace",
}
UNIT_FILES = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
UNITS = "/usr/lib/systemd/system"
SUMMARY = "says what the kernel did to your pods"
DESCRIPTION = """\
ktrace asks the kernel, on the node, who killed, reset or starved a pod. It catches
signals, exits, OOM kills, failed page allocations, TCP resets and refused
connections at the moment they happen, and names the pod, the container and the
process on each side. It brings its own Python and C library."""
MAINTAINER = "ktrace <ktrace@localhost>"
LEVEL = 6  # of xz
LICENCE = "Apache-2.0 AND GPL-2.0-only"


def build(
    bundle: Path, architecture: Architecture, into: Path, level: int = LEVEL
) -> tuple[Path, Path]:
    """Returns the .deb and the .rpm, whose content is the same at any level of compression."""
    with tempfile.TemporaryDirectory(prefix="ktrace-packages-") as scratch:
        tree = Path(scratch, "tree")
        _tree(bundle, tree)
        rpm = _rpm(tree, Path(scratch), architecture, into, level)
        return _deb(tree, architecture, into, level), rpm


def _deb(tree: Path, architecture: Architecture, into: Path, level: int) -> Path:
    """Adds a Debian package's metadata to the tree."""
    target = into / f"ktrace_{version()}_{architecture.debian}.deb"
    sums, control = _md5sums(tree), _control(tree, architecture)
    about = tree / "DEBIAN"
    about.mkdir()
    (about / "md5sums").write_text(sums)
    (about / "control").write_text(control)
    _as_anybody(tree)
    _run(
        *("dpkg-deb", "--root-owner-group", "--threads-max=1", "-Zxz", f"-z{level}"),
        *("--build", str(tree), str(target)),
        brings="dpkg",
    )
    return target


def _rpm(tree: Path, scratch: Path, architecture: Architecture, into: Path, level: int) -> Path:
    _as_anybody(tree)
    (scratch / "ktrace.spec").write_text(_spec(tree, level))
    _run(
        *("rpmbuild", "--quiet", "-bb", "--target", f"{architecture.machine}-linux"),
        *("--define", f"_topdir {scratch}", "--buildroot", f"{scratch}/root"),
        f"{scratch}/ktrace.spec",
        brings="rpm",
    )
    (made,) = (scratch / "RPMS").rglob("*.rpm")
    return Path(shutil.move(made, into / f"ktrace-{version()}-1.{architecture.machine}.rpm"))


def _tree(bundle: Path, tree: Path) -> None:
    """Lays out the installed files below `tree`. No service is enabled."""
    shutil.copytree(bundle, tree / HOME[1:])
    for program in PROGRAMS:
        link = tree / program[1:]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"{HOME}/ktrace")
    for shell, place in COMPLETIONS.items():
        completion = tree / place[1:]
        completion.parent.mkdir(parents=True)
        command = [sys.executable, "-m", "tracer", "completion", shell]
        told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        completion.write_bytes(told.stdout)
    (tree / UNITS[1:]).mkdir(parents=True)
    for unit in UNIT_FILES:
        shutil.copy(unit, tree / UNITS[1:])
    licence = tree / "usr" / "share" / "doc" / "ktrace" / "copyright"
    licence.parent.mkdir(parents=True)
    licence.write_text(
        f"ktrace: {LICENCE}. The texts, and those of what it brings: {HOME}/licences\n"
    )


def _as_anybody(tree: Path) -> None:
    """Of no particular owner's modes and times."""
    set_modes(tree)
    moment = made_at()
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (moment, moment), follow_symlinks=False)


def _control(tree: Path, architecture: Architecture) -> str:
    kilobytes = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
    fields = {
        "Package": "ktrace",
        "Version": version(),
        "Architecture": architecture.debian,
        "Maintainer": MAINTAINER,
        "Installed-Size": str(kilobytes),
        "Section": "admin",
        "Priority": "optional",
        "Description": f"{SUMMARY}\n{textwrap.indent(DESCRIPTION, ' ')}",
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def _md5sums(tree: Path) -> str:
    """In the format of dpkg --verify."""
    sums = {}
    for path in sorted(tree.rglob("*")):
        inside = path.relative_to(tree)
        if path.is_file() and not path.is_symlink():
            sums[inside] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return "".join(f"{told}  {inside}\n" for inside, told in sums.items())


def _spec(tree: Path, level: int) -> str:
    """Turns off rpm's post-processing, which would strip files and add dependencies."""
    installed = [HOME, *PROGRAMS, "/usr/share/doc/ktrace", *COMPLETIONS.values()]
    installed += [f"{UNITS}/{unit.name}" for unit in UNIT_FILES]
    files = "\n".join(installed)
    return f"""\
%global __os_install_post %{{nil}}
%global _build_id_links none
%global debug_package %{{nil}}
%global _buildhost ktrace
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _binary_payload w{level}.xzdio
Name: ktrace
Version: {version()}
Release: 1
Summary: {SUMMARY}
License: {LICENCE}
AutoReqProv: no
%description
{DESCRIPTION}
%install
cp -al {tree}/. %{{buildroot}}/
%files
%defattr(-,root,root,-)
{files}
"""


def _run(*command: str, brings: str) -> None:
    if shutil.which(command[0]) is None:
        raise BuildError(f"making this package needs {command[0]}: apt-get install {brings}")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(made_at())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]}: {(done.stdout + done.stderr).strip()[-2000:]}")
