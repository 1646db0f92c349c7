# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes said, in recordings: it comes back, nothing else changes by it, and files that
begin in the middle have what was said before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubernetes.objects import event, pod
from tests.unit.recording.test_recording import (
    PROBES,
    Script,
    fail,
    hostile,
    incident,
    metadata,
    record,
    replay,
    shown,
    split_blocks,
)
from tracer.kubernetes.objects import fact_of
from tracer.model.event import Clock
from tracer.model.kubernetes import Fact, Facts
from tracer.model.turn import Turn
from tracer.recording.files import Beginning
from tracer.recording.format import Kind, block_lengths, facts_json, json_block
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session

SAID = [fact for one in (event("Killing", "x"), pod()) if (fact := fact_of(one))]


def with_facts(turns: list[Turn], at: int, facts: Sequence[Fact] = SAID) -> list[Turn]:
    turns[at] = dataclasses.replace(turns[at], facts=facts)
    return turns


def facts_of(file: Path) -> list[Fact]:
    with Reader(file) as reader:
        known = Facts()
        told = reader.metadata
        clock = Clock(told.clock_offset_ns)
        Session(ReplaySource(reader), PROBES, told.selection, None, clock, None, known).run()
        return known.all()


@pytest.mark.parametrize("at", [0, 3, 8])
def test_what_was_said_comes_back_and_changes_no_event(tmp_path: Path, at: int) -> None:
    without = record(incident(), tmp_path / "x")
    live = record(with_facts(incident(), at), tmp_path / "y")
    assert live == without == replay(tmp_path / "y")
    assert sorted(map(repr, facts_of(tmp_path / "y"))) == sorted(map(repr, SAID))


def test_what_two_blocks_said_before_an_event(tmp_path: Path) -> None:
    """As in a file that begins in the middle."""
    record(incident(), tmp_path / "x")
    header, told, *others = split_blocks((tmp_path / "x").read_bytes())
    said = [json_block(Kind.KUBERNETES, facts_json([fact])) for fact in SAID]
    (tmp_path / "y").write_bytes(b"".join([header, told, *said, *others]))
    assert sorted(map(repr, facts_of(tmp_path / "y"))) == sorted(map(repr, SAID))


def test_it_is_as_the_api_lists_it() -> None:
    listed = facts_json(SAID)
    assert listed["kind"] == "List"
    assert [item["kind"] for item in listed["items"]] == [fact.json()["kind"] for fact in SAID]


def test_without_it_a_recording_is_as_ever(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    kinds = [
        block_lengths(one[:56])[3][0] for one in split_blocks((tmp_path / "x").read_bytes())[1:]
    ]
    assert Kind.KUBERNETES not in kinds


def test_who_does_not_know_it_skips_it(tmp_path: Path) -> None:
    """As every reader does with kinds of blocks that it does not know."""
    live = record(with_facts(incident(), 3), tmp_path / "x")
    blocks = split_blocks((tmp_path / "x").read_bytes())
    left = [one for one in blocks[1:] if block_lengths(one[:56])[3][0] != Kind.KUBERNETES]
    assert len(left) == len(blocks) - 2
    (tmp_path / "y").write_bytes(blocks[0] + b"".join(left))
    assert replay(tmp_path / "y") == live


class Middle:
    """A destination that begins a file in the middle of the session."""

    resumes, idle = True, False

    def __init__(self) -> None:
        self.data = b""

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning = beginning

    def write(self, blocks: bytes, first: int, last: int) -> None:
        self.data = self._beginning(last + 1)

    def tick(self, now: int) -> None: ...

    def close(self, end: bytes) -> None:
        self.data += end


def test_a_file_that_begins_in_the_middle_has_what_was_said_before(tmp_path: Path) -> None:
    middle = Middle()
    recorder = Recorder(middle, metadata(), PROBES, fail, Clock(metadata().clock_offset_ns))
    shown(Script(with_facts(incident(), 0)), metadata(), tmp_path / "live", recorder)
    recorder.close()
    file = tmp_path / "middle"
    file.write_bytes(middle.data)
    assert sorted(map(repr, facts_of(file))) == sorted(map(repr, SAID))


@pytest.mark.parametrize("told", [7, [], {"items": 7}, {"items": [7, {}, {"kind": "Pod"}]}])
def test_nonsense_says_nothing(tmp_path: Path, told: Any) -> None:
    record(incident(), tmp_path / "x")
    head, meta, *rest = split_blocks((tmp_path / "x").read_bytes())
    (tmp_path / "y").write_bytes(head + meta + json_block(Kind.KUBERNETES, told) + b"".join(rest))
    assert facts_of(tmp_path / "y") == []


def test_what_is_no_json(tmp_path: Path) -> None:
    from tests.unit.recording.test_recording import meta
    from tracer.recording.format import block

    assert hostile(tmp_path / "x", meta(), block(Kind.KUBERNETES, b"{"))
