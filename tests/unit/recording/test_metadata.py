# SPDX-License-Identifier: Apache-2.0
"""What a recording says it is of: it comes back, older files have less, and nothing is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.recording.test_recording import metadata
from tracer.model.errors import BadRecording
from tracer.model.selection import Selection
from tracer.recording.metadata import Metadata, metadata_of

CHOSEN = Selection(
    pods=("web-*",),
    namespaces=("shop",),
    containers=("app",),
    sender_pods=("job-1",),
    labels=(("app", "web"), ("tier", None)),
    pids=frozenset((7, 3)),
    everything=True,
    without_pods=True,
    besides=("0a1b",),
)
WORDS = r"^the recording does not say what it is of$"
FULL = metadata(count=23, cannot_tell={"exits": ["the whole"]}, selection=CHOSEN)


def told(full: Metadata = FULL) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(full.json()))
    return found


def same(found: Metadata) -> bool:
    """But for the layouts, which test_recording.py compares by what they read."""
    assert found.schemas.keys() == FULL.schemas.keys()
    return replace(found, schemas=FULL.schemas) == FULL


def test_it_comes_back() -> None:
    assert same(metadata_of(told()))
    assert told()["selection"]["pids"] == [3, 7]


def test_what_it_does_not_know_is_left() -> None:
    assert same(metadata_of(told() | {"weather": "fine"}))


def test_what_an_older_file_does_not_say() -> None:
    less = told()
    for name in ("count", "attached", "cannot_tell"):
        del less[name]
    for name in ("without_pods", "besides"):
        del less["selection"][name]
    found = metadata_of(less)
    assert (found.count, found.attached, found.cannot_tell) == (None, {}, {})
    assert (found.selection.without_pods, found.selection.besides) == (False, ())


@pytest.mark.parametrize("name", ["node", "kernel", "began", "clock_offset_ns", "selection"])
def test_what_every_file_says(name: str) -> None:
    less = told()
    del less[name]
    with pytest.raises(BadRecording, match=WORDS):
        metadata_of(less)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 5} for name in ("node", "kernel", "machine", "boot_id", "ktrace")),
        *({"began": value} for value in (1 << 63, -(1 << 63), 1.0, True, "1", None)),
        {"clock_offset_ns": 1 << 63},
        *({"count": value} for value in ("23", 2.5, False)),
        *({"attached": value} for value in ({"exits": 3}, ["exits"], None)),
        *({"cannot_tell": value} for value in ({"exits": [3]}, {"exits": 3}, None)),
        {"selection": None},
    ],
    ids=str,
)
def test_nothing_is_believed(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRecording, match=WORDS):
        metadata_of(told() | wrong)


@pytest.mark.parametrize("moment", [(1 << 63) - 1, 1 - (1 << 63), 0])
def test_any_moment_that_64_bits_hold(moment: int) -> None:
    found = metadata_of(told() | {"began": moment, "clock_offset_ns": moment})
    assert (found.began, found.clock_offset_ns) == (moment, moment)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: [5]} for name in ("pods", "namespaces", "containers", "sender_pods")),
        *({"labels": value} for value in ([["app"]], [[3, "web"]], [["app", 3]], "app")),
        *({"pids": value} for value in (["7"], [True], 7)),
        {"everything": ...},
    ],
    ids=str,
)
def test_no_selection_is_believed(wrong: dict[str, Any]) -> None:
    chosen = told()["selection"] | wrong
    if ... in chosen.values():
        del chosen["everything"]
    with pytest.raises(BadRecording, match=WORDS):
        metadata_of(told() | {"selection": chosen})


def test_what_was_selected_besides_is_text() -> None:
    chosen = told()["selection"] | {"besides": ["0a1b", 3, None]}
    assert metadata_of(told() | {"selection": chosen}).selection.besides == ("0a1b",)
