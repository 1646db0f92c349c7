# SPDX-License-Identifier: Apache-2.0
"""`tracer.read`: a recording in Python gives what the command line gives."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import tracer
from tests.support.ktrace import ROOT, run
from tests.unit.recording.test_recording import CID, DATA, UID

FIRST = DATA / "format-1.0.ktrace"
LINES = (DATA / "format-1.0.jsonl").read_text().splitlines()


def test_events_are_those_of_a_replay() -> None:
    recording = tracer.read(FIRST)
    assert [event.json() for event in recording] == LINES
    assert [dict(event) for event in recording] == [json.loads(line) for line in LINES], "again"


def test_what_every_event_has() -> None:
    first = next(iter(tracer.read(FIRST)))
    assert first.kind == "signal"
    assert first["signal"]["name"] == "SIGHUP"
    assert first.text == f"SIGHUP from {first['sender']['comm']}[20] to nginx[10] (ignored)"
    assert first.alarm
    assert first.node == "node-7"
    assert first.pod == tracer.Pod(UID, "shop", "web-0", {"app": "web", "tier": "front"})
    assert first.container is not None
    assert (first.container.name, first.container.id) == ("nginx", CID)
    assert first.boot_ns == first["boot_ns"]
    assert first.time == datetime.fromisoformat(first["time"][:26] + "+00:00")
    assert "sender" in first
    assert len(first) == len(json.loads(LINES[0]))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"pod": "shop/web-*"}, ["-p", "shop/web-*"]),
        ({"pod": ("nobody", "web-0")}, ["-p", "nobody", "-p", "web-0"]),
        ({"namespace": "sh*", "container": "nginx"}, ["-n", "sh*", "-c", "nginx"]),
        ({"selector": "app=web,tier"}, ["-l", "app=web,tier"]),
        ({"selector": ["app=db"]}, ["-l", "app=db"]),
        ({"sender_pod": "none"}, ["--sender-pod", "web-0", "-n", "none"]),
        ({"pid": 20}, ["--pid", "20"]),
        ({"pid": [10, 20]}, ["--pid", "10", "--pid", "20"]),
        ({"begin": "+52ms", "end": "+55ms"}, ["--from", "+52ms", "--to", "+55ms"]),
        ({"begin": "2023-11-14T22:13:25.055Z"}, ["--from", "2023-11-14T22:13:25.055Z"]),
        (
            {"begin": datetime(2023, 11, 14, 22, 13, 25, 55_000, tzinfo=timezone.utc)},
            ["--from", "2023-11-14T22:13:25.055Z"],
        ),
    ],
)
def test_selectors_are_those_of_a_replay(chosen: Any, words: list[str]) -> None:
    told = run("replay", str(FIRST), "-o", "json", *words).stdout.splitlines()
    assert [event.json() for event in tracer.read(FIRST, **chosen)] == told


@pytest.mark.parametrize("chosen", [{"begin": "soon"}, {"selector": "a in (b)"}])
def test_a_selector_that_means_nothing(chosen: Any) -> None:
    with pytest.raises(tracer.KtraceError):
        tracer.read(FIRST, **chosen)


def test_verdicts_are_those_of_why() -> None:
    told = run("why", str(FIRST), "-o", "json").stdout.splitlines()
    (verdict,) = verdicts = tracer.read(FIRST).verdicts()
    assert [one.json() for one in verdicts] == told
    assert (verdict.id, verdict.certainty) == ("killed_by_suspicious_process", "likely")
    assert verdict.sentence == verdict.text == verdict["sentence"]
    assert verdict.headline == verdict["headline"]
    assert verdict.remedy == verdict["remedy"]
    assert tracer.read(FIRST, namespace="db").verdicts() == []


def test_what_a_recording_is_of() -> None:
    recording = tracer.read(str(FIRST))
    assert (recording.node, recording.machine) == ("node-7", "x86_64")
    assert recording.path == FIRST
    assert recording.kernel
    assert recording.ktrace
    assert recording.began == datetime(2023, 11, 14, 22, 13, 25, tzinfo=timezone.utc)
    assert recording.probes == tuple(
        json.loads(run("info", str(FIRST), "-o", "json").stdout)["probes"]
    )
    assert recording.pods == (tracer.Pod(UID, "shop", "web-0", {"app": "web", "tier": "front"}),)
    assert recording.losses == (
        tracer.Loss("signals", 19137, recording.began, recording.began + timedelta(seconds=2)),
    )
    assert recording.damage is None


def test_tables() -> None:
    table = tracer.read(FIRST).to_arrow()
    assert table.num_rows == len(LINES) + 1, "the verdict is the last"
    assert table.column("ktrace.event").to_pylist()[:-1] == LINES
    few = tracer.read(FIRST, pod="nobody", end="+0s").to_arrow()
    assert (few.num_rows, few.schema) == (0, table.schema)


def test_a_data_frame() -> None:
    frame = tracer.read(FIRST).to_pandas()
    assert list(frame["ktrace.event"][:-1]) == LINES


def test_without_its_library_a_table_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tracer.KtraceError) as raised:
        tracer.read(FIRST).to_pandas()
    assert "ktrace[pandas]" in (raised.value.remedy or "")


@pytest.mark.parametrize("bytes_", [b"", b"no recording", FIRST.read_bytes()[:40]])
def test_what_is_no_recording(tmp_path: Path, bytes_: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes_)
    with pytest.raises(tracer.BadRecording):
        tracer.read(file)
    with pytest.raises(tracer.BadRecording):
        tracer.read(tmp_path / "none")


@pytest.mark.parametrize("harm", ["cut", "damaged"])
def test_what_is_before_the_damage_is_read(tmp_path: Path, harm: str) -> None:
    whole = FIRST.read_bytes()
    file = tmp_path / "x"
    file.write_bytes(whole[:-10] if harm == "cut" else whole[:-10] + b"\0" + whole[-9:])
    recording = tracer.read(file)
    with pytest.warns(UserWarning, match="bytes could not be used"):
        events = [event.json() for event in recording]
    assert events == LINES[: len(events)] != []
    assert recording.damage is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recording.verdicts(), "and it is said once"


PLAIN = """
import sys
before = set(sys.modules)
import tracer
assert not {name for name in set(sys.modules) - before if name.startswith("tracer.")}
recording = tracer.read(sys.argv[1])
print(len(list(recording)), len(recording.verdicts()))
loaded = {name for name in sys.modules if name.startswith(("tracer.backends", "tracer.cli"))}
assert not loaded, loaded
"""


def test_it_needs_nothing_of_the_system(tmp_path: Path) -> None:
    """No BPF, no privilege, nothing that only Linux has; and `import tracer` costs nothing."""
    readable = tmp_path / "x.ktrace"
    readable.write_bytes(FIRST.read_bytes())
    code = "import sys; sys.modules.update(fcntl=None, resource=None, pwd=None, termios=None)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + PLAIN, str(readable)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(LINES)} 1\n"


def test_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples print what they say they do."""
    (tmp_path / "node.ktrace").write_bytes(FIRST.read_bytes())
    monkeypatch.chdir(tmp_path)
    ran = doctest.testfile(
        str(ROOT / "docs" / "python.md"), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert ran.attempted > 10
    assert ran.failed == 0


NOTEBOOK = ROOT / "docs" / "python.ipynb"


def executed(notebook: dict[str, Any]) -> Iterator[str]:
    """What each of its cells prints, one after the other in one namespace."""
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec("".join(cell["source"]), names)
            yield said.getvalue()


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.ktrace").write_bytes(FIRST.read_bytes())
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    told = [
        "".join(cell["outputs"][0]["text"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    assert list(executed(notebook)) == told
    assert len(told) > 3
