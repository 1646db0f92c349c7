# SPDX-License-Identifier: Apache-2.0
"""A release tells what it rests on, and of which commit each measurement is."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy import ROOT, BuildError, version
from deploy.image.build import NAME
from deploy.kubernetes.build import GENERATED, whole
from deploy.release.build import clean_commit, sdist
from deploy.release.evidence import UNSAID, Piece, evidence, pieces
from tests.support.markdown import measured

MEASURED = """\
# Page

<!-- From here on written by make matrix. -->

| a | {} |

<!-- Up to here written by make matrix. -->

## What they cost

{}

## Others
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "docs").mkdir()
    commit(tmp_path, "matrix", MEASURED.format("one", "much"))
    commit(tmp_path, "costs", MEASURED.format("one", "little"))
    commit(tmp_path, "words", MEASURED.format("one", "little").replace("Page", "A page"))
    return tmp_path


def test_each_piece_has_the_commit_that_wrote_it(checkout: Path) -> None:
    matrix, costs = pieces(checkout)
    assert (matrix.title, costs.title) == ("Written by make matrix", "What they cost")
    assert subject(checkout, matrix) == "matrix"
    assert subject(checkout, costs) == "costs"
    told = evidence(checkout)
    assert "| a | one |" in told and "little" in told and "Others" not in told
    assert told.count(UNSAID) == 2
    assert matrix.written_at(checkout) in told and costs.written_at(checkout) in told


def test_what_is_measured_says_of_which_commit(checkout: Path) -> None:
    page = (checkout / "docs" / "compatibility.md").read_text()
    commit(checkout, "measured", page.replace("| a | one |\n", f"| a | two |\n\n{measured()}"))
    told = evidence(checkout)
    assert told.count(UNSAID) == 1
    assert measured() in told
    assert git(ROOT, "rev-parse", "HEAD").strip() in measured()


def test_the_documentation_has_all_of_it() -> None:
    titles = {piece.title for piece in pieces(ROOT)}
    assert titles >= {"Written by make matrix", "Written by make truth CLUSTER=1", "What they cost"}


def test_only_a_clean_checkout_is_released(checkout: Path) -> None:
    assert clean_commit(checkout) == git(checkout, "rev-parse", "HEAD").strip()
    (checkout / "docs" / "new.md").write_text("not committed")
    with pytest.raises(BuildError, match=r"docs/new\.md"):
        clean_commit(checkout)


def test_the_source_is_the_same_in_a_tree_that_was_built(tmp_path: Path) -> None:
    """Only what is in the repository, and what every build needs."""
    assert list((ROOT / "tracer" / "objects").glob("*.bpf.o"))
    with tarfile.open(sdist(tmp_path)) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    kept = set(git(ROOT, "ls-files").split())
    made = {name for name in names - kept if not name.startswith("ktrace.egg-info/")}
    assert made <= {"PKG-INFO", "setup.cfg"}
    assert names >= {name for name in kept if name.startswith(("probes/", "stap/"))}


def test_the_version_stands_in_one_place() -> None:
    assert f"image: {NAME}:{version()}\n" in whole()
    listed = git(ROOT, "ls-files", "deploy", "tests", "tracer", "docs/in-a-pod.md", "Makefile")
    for name in listed.split():
        path = ROOT / name
        if path.suffix in (".py", ".yaml", ".md", ".c", ".sh", "") and path.exists():
            text = path.read_text(errors="replace")
            assert text.startswith(GENERATED) or f":{version()}" not in text, name


def subject(checkout: Path, piece: Piece) -> str:
    told = git(checkout, "show", "--no-patch", "--format=%s", piece.written_at(checkout))
    return told.strip()


def commit(checkout: Path, words: str, page: str) -> None:
    (checkout / "docs" / "compatibility.md").write_text(page)
    git(checkout, "add", "--all")
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    git(checkout, *who, "commit", "-q", "-m", words)


def git(where: Path, *words: str) -> str:
    command = ["git", "-C", str(where), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
