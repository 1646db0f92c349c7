# SPDX-License-Identifier: Apache-2.0
"""Guests of another architecture, which run all kernel tests on the wheel that is shipped for it.

Their disk cannot be an image of this machine. Its programs and Python are that architecture's
Debian packages, unpacked and not installed; ktrace and pytest are wheels; the tests are the
project's, without its own `tracer`. The bundle and the image for it are there, too.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.architecture import ARCHITECTURES, Architecture, wanted
from deploy.bundle.build import build as build_bundle
from deploy.debian import Apt, Say, locked
from deploy.image.build import build as build_image
from deploy.packages.build import HOME
from deploy.wheel.build import build as build_wheel
from tests.lab import image
from tests.lab.image import PROJECT, TESTS_MODULE
from tests.lab.kernels import LabError, Suite, cache
from tests.support import oci
from tests.support.bundle import bundle as own_bundle

SUITES = (Suite("trixie", "6.12", in_tests=False, architecture="arm64"),)

FORM = "wheel, bundle, image"

# The suite with this machine's Python version, so that bytecode compiled here works there.
USERLAND = "bookworm"
PYTHON = "python3.11"
PACKAGES = (*image.PROGRAM_PACKAGES, PYTHON, "busybox-static", "crun")
WHEELS = ("pytest", "pytest-rerunfailures", "pytest-timeout")
SITE = f"usr/local/lib/{PYTHON}/dist-packages"
PARTS = [part for part in image.PROJECT_PARTS if part != "tracer"]
PLATFORMS = ("manylinux_2_17", "manylinux2014", "manylinux_2_28")


def userland(suite: Suite, say: Say) -> Path:
    """Kept between labs."""
    told = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8]
    root = cache() / f"userland-{suite.architecture}-{told}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.parent):
        if not root.exists():
            apt = Apt(USERLAND, root.with_suffix(".apt"), architecture=suite.architecture)
            say(f"fetching the programs of {USERLAND} for {suite.architecture}")
            apt.update()
            fresh = root.with_suffix(".part")
            shutil.rmtree(fresh, ignore_errors=True)
            for archive in apt.fetched(apt.needed(PACKAGES)):
                subprocess.run(["dpkg-deb", "--extract", archive, fresh], check=True)
            shutil.rmtree(root.with_suffix(".apt"))
            fresh.rename(root)
    return root


def busybox(suite: Suite, say: Say) -> Path:
    return userland(suite, say) / "bin" / "busybox"


def build_disk(suite: Suite, tests: Sequence[str], scratch: Path, say: Say) -> Path:
    tree = scratch / "disk"
    shutil.copytree(userland(suite, say), tree, symlinks=True)
    for directory in ("dev", "proc", "sys", "run", "root", "lab", "tmp", "etc"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    (architecture,) = (one for one in ARCHITECTURES if one.debian == suite.architecture)
    wheel = build_wheel(architecture, scratch / "wheel", say)
    _install(wheel, architecture, tree / SITE)
    bundle = build_bundle(wheel, architecture, scratch / "bundle", say)
    archive = scratch / "image.oci.tar"
    build_image({wanted(): own_bundle(), architecture: bundle}, archive, say)
    oci.unpack(archive, architecture.debian, tree / str(oci.PLACE)[1:])
    shutil.move(bundle, tree / HOME[1:])
    for part in PARTS:
        source, target = PROJECT / part, tree / str(PROJECT / part)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    _compile(tree)
    order = f"cd {shlex.quote(str(PROJECT))} && export KTRACE_LAB_BACKEND=core && "
    order += f'export KTRACE_LAB_BACKENDS=core && {PYTHON} -m {TESTS_MODULE} "$results"'
    (tree / "lab" / "tests").write_text(f"{order} {shlex.join(tests)}\n")
    return image.finish(tree, scratch)


def _install(wheel: Path, architecture: Architecture, site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "--no-compile", "--only-binary=:all:"]
    command += ["--python-version", PYTHON.removeprefix("python"), "--target", str(site)]
    command += [f"--platform={one}_{architecture.machine}" for one in PLATFORMS]
    done = subprocess.run([*command, str(wheel), *WHEELS], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"wheels for {architecture.debian}: {done.stderr.strip()[-300:]}")


def _compile(tree: Path) -> None:
    places = [SITE, f"usr/lib/{PYTHON}", *(str(PROJECT / part)[1:] for part in PARTS)]
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/"]
    directories = [str(tree / place) for place in places if (tree / place).is_dir()]
    subprocess.run([*command, *directories], check=False, stdout=subprocess.DEVNULL)
