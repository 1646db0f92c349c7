# SPDX-License-Identifier: Apache-2.0
"""`ktrace why FILE --events FILE`, by its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.kubernetes.objects import event, listed, pod
from tracer.kubernetes import file
from tracer.kubernetes.file import facts_of_file
from tracer.model.errors import UsageError

RECORDING = Path(__file__).parents[2] / "data" / "format-1.0.ktrace"


def why(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", "why", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def of_the_recording(tmp_path: Path) -> tuple[Path, str]:
    """Events of the pod of which the recording's first verdict is."""
    (line, *_) = why(str(RECORDING), "-o", "json").stdout.splitlines()
    told = json.loads(line)
    one = event("Killing", "Stopping container x", container="", uid=told["pod"]["uid"])
    one["involvedObject"] |= {name: told["pod"][name] for name in ("namespace", "name")}
    one["firstTimestamp"] = one["lastTimestamp"] = told["time"][:19] + "Z"
    written = tmp_path / "events.json"
    written.write_text(json.dumps(listed(one)))
    return written, str(told["pod"]["name"])


def test_events_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    events, name = of_the_recording(tmp_path)
    told = why(str(RECORDING), "--pod", name, "--events", str(events))
    assert told.returncode == 0, told.stderr
    assert "  Kubernetes says\n" in told.stdout and "Killing: Stopping container x" in told.stdout
    piped = why(str(RECORDING), "--pod", name, "--events", "-", stdin=events.read_text())
    assert piped.stdout == told.stdout
    line = json.loads(
        why(str(RECORDING), "-o", "json", "--events", str(events)).stdout.splitlines()[0]
    )
    assert line["kubernetes"]["events"][0]["reason"] == "Killing"


def test_events_of_others_change_nothing_and_that_is_said(tmp_path: Path) -> None:
    events = tmp_path / "events.json"
    events.write_text(json.dumps(listed(event("Killing", "x"), pod())))
    told = why(str(RECORDING), "--events", str(events))
    assert told.stdout == why(str(RECORDING)).stdout
    assert "2 Events and pods are about others" in told.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b'{"kind": "List", "items": [', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"LAST SEEN   TYPE   REASON", "is no JSON"),
        (b"[]", "holds neither"),
        (b"7", "holds neither"),
        (b'{"kind": "Node"}', "holds neither"),
    ],
)
def test_what_is_no_list_of_events(tmp_path: Path, content: bytes, words: str) -> None:
    events = tmp_path / "events.json"
    events.write_bytes(content)
    with pytest.raises(UsageError, match=words) as raised:
        facts_of_file(str(events))
    assert raised.value.remedy and "kubectl get events,pods -A -o json" in raised.value.remedy


def test_an_empty_list_is_no_mistake(tmp_path: Path) -> None:
    events = tmp_path / "events.json"
    events.write_text('{"kind": "List", "items": []}')
    assert facts_of_file(str(events)) == []


@pytest.mark.parametrize("name", ["", "no/such/file", ".", "a\0b"])
def test_what_cannot_be_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        facts_of_file(name)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_FILE", 1000)
    events = tmp_path / "events.json"
    events.write_bytes(b" " * 1001)
    with pytest.raises(UsageError, match="larger than") as raised:
        facts_of_file(str(events))
    assert raised.value.remedy and "-n NAMESPACE" in raised.value.remedy


def test_events_are_for_recordings() -> None:
    told = why("shop/web-0", "--events", os.devnull)
    assert told.returncode == 2 and "--events tells what Kubernetes said of a recording" in (
        told.stderr
    )
