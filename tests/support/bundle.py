# SPDX-License-Identifier: Apache-2.0
"""The bundle of this tree for tests, rebuilt only when an input changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from deploy import ROOT, BuildError
from deploy.architecture import wanted
from deploy.bundle.build import build
from deploy.debian import locked
from deploy.wheel.build import build as make_wheel

HERE = ROOT / "build" / "tests"
SOURCES = (
    "tracer/**/*.py",
    "probes/**/*",
    "stap/**/*",
    "deploy/**/*",
    "setup.py",
    "pyproject.toml",
)


def bundle() -> Path:
    """The bundle's directory, beside the wheel it was made from."""
    made = HERE / _digest()
    HERE.mkdir(parents=True, exist_ok=True)
    with locked(HERE):
        if not made.exists():
            for older in HERE.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            fresh = HERE / "unfinished"
            architecture = wanted()
            build(make_wheel(architecture, fresh, print), architecture, fresh, print)
            fresh.rename(made)
    (found,) = (path for path in made.iterdir() if path.is_dir())
    return found


def build_if_wanted(tests: Iterable[pytest.Item], fixture: str) -> None:
    """If one of these tests asks for the fixture. What fails here is told to who asks."""
    if any(fixture in getattr(test, "fixturenames", ()) for test in tests):
        with suppress(BuildError, subprocess.CalledProcessError):
            bundle()


def wheel(bundle: Path) -> Path:
    (found,) = bundle.parent.glob("*.whl")
    return found


def _digest() -> str:
    told = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if path.is_file() and "__pycache__" not in path.parts:
            told.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return told.hexdigest()[:16]
