# SPDX-License-Identifier: Apache-2.0
"""Recordings of many nodes as one table: Parquet in directories that name node and day, read by
DuckDB and by ClickHouse's engine, as docs/scale.md says it."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from deploy.debian import cache, locked
from tests.support.ktrace import ROOT, run

SAMPLE = ROOT / "tests/data/format-1.0.ktrace"
# The part of chdb that is a program: 51 MB, of which 170 are kept.
ENGINE = "chdb-core-lite==26.5.0"
ASK = "import chdb, sys; print(chdb.query(sys.argv[1], 'CSV'), end='')"
PAGE = (ROOT / "docs/scale.md").read_text()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nodes have seen the same on two days."""
    lake = tmp_path_factory.mktemp("lakes") / "lake"
    for node in ("node-7", "node-8"):
        for date in ("2026-11-25", "2026-11-26"):
            out = lake / f"node={node}" / f"date={date}" / "events.parquet"
            out.parent.mkdir(parents=True)
            done = run("export", str(SAMPLE), "-f", "parquet", "-o", str(out))
            assert done.returncode == 0, done.stderr
    return lake


def question(engine: str) -> str:
    """What the page asks this engine."""
    found = re.search(rf"```sql\n-- {engine}\n(.*?);\n```", PAGE, re.DOTALL)
    assert found, f"the page has no question to {engine}"
    return found[1]


def test_duckdb(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lake.parent)
    rows = duckdb.execute(question("DuckDB")).fetchall()
    assert sorted(rows) == [
        ("node-7", "killed_by_suspicious_process", 1),
        ("node-8", "killed_by_suspicious_process", 1),
    ]


def test_clickhouse(lake: Path) -> None:
    """It reads files below its own directory only."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, question("ClickHouse")],
        env={**os.environ, "PYTHONPATH": str(engine())},
        cwd=lake.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(csv.reader(io.StringIO(done.stdout))) == [
        ["node-7", "killed_by_suspicious_process", "1"],
        ["node-8", "killed_by_suspicious_process", "1"],
    ]


def engine() -> Path:
    """Where ClickHouse's engine is, outside of the tree."""
    directory = cache() / "chdb"
    directory.mkdir(parents=True, exist_ok=True)
    place = directory / ENGINE
    with locked(directory):
        if not place.exists():
            part = directory / f"{ENGINE}.part"
            words = ("install", "-q", "--no-deps", "--upgrade", "--target", str(part), ENGINE)
            subprocess.run([sys.executable, "-m", "pip", *words], check=True)
            part.rename(place)
    return place
