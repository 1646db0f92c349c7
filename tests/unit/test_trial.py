# SPDX-License-Identifier: Apache-2.0
"""A new probe is a `.bpf.c`, a package and a page: with them, and nothing else touched, the project
is what it has to be. tests/kernel/test_trial_probe.py has it traced."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trial import PACKAGE, PAGE, SOURCE

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# What compares probes with pages, tables and each other.
TESTS = (
    *("agent/test_prometheus.py", "outputs/test_views.py", "test_bounds.py"),
    *("test_documentation.py", "test_events_page.py", "test_numbers_of_bounds.py"),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that is kept under version control, or would be, and of what was built."""
    root = tmp_path_factory.mktemp("house") / "ktrace"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("only in a clone: it has the list of files")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for name in ("objects", "sources", "stap"):
        shutil.copytree(ROOT / "tracer" / name, root / "tracer" / name)
    for name, text in {
        "probes/trial.bpf.c": SOURCE,
        "tracer/probes/trial/__init__.py": PACKAGE,
        "docs/events/trial.md": PAGE,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    machine = platform.machine()
    target = {"x86_64": "x86", "aarch64": "arm64"}[machine]
    flags = ["-target", "bpf", "-g", "-O2", "-Wall", "-Werror", f"-D__TARGET_ARCH_{target}"]
    flags += [f"-I/usr/include/{machine}-linux-gnu", "-Iprobes/include", "-c"]
    made = ["probes/trial.bpf.c", "-o", "tracer/objects/trial.bpf.o"]
    subprocess.run(["clang", *flags, *made], cwd=root, check=True)
    return root


def run(house: Path, *words: str) -> None:
    ended = subprocess.run(
        words,
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ended.returncode, ended.stdout[-3000:] + ended.stderr[-3000:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "check",
    [
        "ruff check .",
        "ruff format --check .",
        "clang-format --dry-run --Werror probes/trial.bpf.c",
        "mypy tracer/probes",
        "lint-imports",
    ],
)
def test_it_passes_the_checks(house: Path, check: str) -> None:
    run(house, *check.split())


@pytest.mark.timeout(600)
def test_it_passes_the_tests_of_probes(house: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"]
    words += ["trial or every or codes or there"]
    run(house, *words, *(f"tests/unit/{name}" for name in TESTS))
