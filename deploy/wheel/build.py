# SPDX-License-Identifier: Apache-2.0
"""A wheel for any Linux with a C library of 2012 or later. It contains its own libbpf."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

from deploy import ROOT, BuildError, made_at, version
from deploy.architecture import Architecture
from deploy.debian import Say
from deploy.wheel.sysroot import GLIBC, sysroot


def platform(architecture: Architecture) -> str:
    return f"manylinux_{GLIBC.replace('.', '_')}_{architecture.machine}"


def file_name(architecture: Architecture) -> str:
    return f"ktrace-{version()}-py3-none-{platform(architecture)}.whl"


def build(architecture: Architecture, into: Path, say: Say) -> Path:
    place = sysroot(architecture, say)
    say(f"the wheel for {architecture.debian}")
    settings = {
        "KTRACE_MACHINE": architecture.machine,
        "KTRACE_SYSROOT": str(place),
        "KTRACE_PLATFORM": platform(architecture),
        "SOURCE_DATE_EPOCH": str(made_at()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(into), str(ROOT)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"building the wheel: {(done.stdout + done.stderr).strip()[-2000:]}")
    wheel = into / file_name(architecture)
    set_modes(wheel)
    check(wheel, architecture)
    return wheel


def set_modes(wheel: Path) -> None:
    """Modes that do not depend on who builds: a checkout's are those of its owner's umask."""
    fresh = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as told, zipfile.ZipFile(fresh, "w") as archive:
        for item in told.infolist():
            program = item.external_attr >> 16 & 0o100
            item.external_attr = (stat.S_IFREG | (0o755 if program else 0o644)) << 16
            archive.writestr(item, told.read(item))
    fresh.rename(wheel)


def check(wheel: Path, architecture: Architecture) -> None:
    """Checks with auditwheel(1) that no library in it needs more than the wheel's name promises."""
    told = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise BuildError(f"auditwheel: {told.stderr.strip()[-2000:]}")
    needs = json.loads(told.stdout)
    if needs["overall_tag"] != platform(architecture):
        raise BuildError(f"{wheel.name} needs more than its name says: {told.stdout}")
