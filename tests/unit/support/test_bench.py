# SPDX-License-Identifier: Apache-2.0
"""What the measurements rest on: a quiet machine, pairs of figures, and a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import check, peers, quiet
from bench.check import Measure
from bench.quiet import Loaded, Watch


def test_a_loaded_machine_is_refused_or_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "busy", lambda: 0.5)
    monkeypatch.setattr(quiet, "PATIENCE", 0.0)
    with pytest.raises(Loaded, match="others use 50% of the processors"):
        Watch().look()
    marked = Watch(anyway=True)
    marked.look()
    assert marked.words == "LOADED: others used up to 50% of the processors"


def test_a_machine_that_becomes_quiet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([0.9, 0.3, 0.02])
    monkeypatch.setattr(quiet, "busy", lambda: next(used))
    watch = Watch()
    watch.look()
    assert watch.words == "quiet: others used at most 2% of the processors"


def test_who_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(100, 1000), (150, 1100)])
    monkeypatch.setattr(quiet, "_times", lambda: next(times))
    assert quiet.busy(0) == 0.5


def test_neighbours_are_compared() -> None:
    """A machine that becomes slower meanwhile makes nobody slower."""
    measure = Measure("x", "ms", lambda house: 0.0, 3)
    measure.figures = {"base": [1.0, 2.0, 4.0], "here": [1.0, 2.0, 4.4]}
    assert measure.ratio == 1.0
    measure.figures["here"] = [1.1, 2.2, 4.0]
    assert measure.ratio == pytest.approx(1.1)
    (row,) = check.rows([measure])
    assert row == ("x, ms", "2.00 (1.00 … 4.00)", "2.20 (1.10 … 4.00)", "1.10", "SLOWER")


def test_a_section_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n")
    monkeypatch.setattr(bench, "PAGE", page)
    for output in ("one\n", "two ```\n"):
        bench.write("make bench (x)", "How fast x is", "quiet", output)
    text = page.read_text()
    assert text.count("## How fast x is") == 1
    assert re.search(r"quiet\.\n\n```\ntwo '''\n```\n\nMeasured at commit ", text)
    assert "one" not in text


def test_every_measurement_is_one_of_make_bench() -> None:
    made = {path.stem for path in Path(bench.__file__).parent.glob("*.py")}
    helpers = {"__init__", "__main__", "check", "decoding", "peers", "quiet", "scale", "tracers"}
    assert bench.BENCHES.keys() == made - helpers


def test_a_peer_that_cannot_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="there is no sigsnoop to measure beside"):
        peers.install("sigsnoop")
    assert "installing libbpf-tools" in capsys.readouterr().out
