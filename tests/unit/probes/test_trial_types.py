# SPDX-License-Identifier: Apache-2.0
"""The body of a new probe's events is typed: mypy sees a wrong key wherever the package makes or
reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trial import PACKAGE

ROOT = Path(__file__).parents[3]
# What the author wrote, a mistake, and what mypy says of it.
MISTAKES = {
    "made": (
        '"answer": record.answer}',
        '"anwser": record.answer}',
        'Extra key "anwser" for TypedDict "TrialBody"',
    ),
    "made_of_another_type": ('"answer": record.answer}', '"answer": "42"}', "expression has type"),
    "said": ("is {e.body['answer']}", "is {e.body['anwser']}", 'has no key "anwser"'),
    "shown": ('str(e.body["answer"])', 'str(e.body["anwser"])', 'has no key "anwser"'),
    "shown_as_it_is": ('str(e.body["answer"])', 'e.body["answer"]', "incompatible type"),
    "grouped": (
        'Alike("trial", e.body["answer"])',
        'Alike("trial", e.body["anwser"])',
        'has no key "anwser"',
    ),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """mypy's, of the package and of copies that have one mistake each."""
    place = tmp_path_factory.mktemp("types")
    (place / "right.py").write_text(PACKAGE)
    for name, (right, wrong, _) in MISTAKES.items():
        assert PACKAGE.count(right) == 1
        (place / f"{name}.py").write_text(PACKAGE.replace(right, wrong))
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "."],
        cwd=place,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.timeout(600)
def test_the_package_is_typed(complaints: list[str]) -> None:
    assert [line for line in complaints if line.startswith("right.py")] == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(complaints: list[str], name: str) -> None:
    found = [line for line in complaints if line.startswith(f"{name}.py")]
    assert any(MISTAKES[name][2] in line for line in found), found
