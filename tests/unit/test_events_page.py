# SPDX-License-Identifier: Apache-2.0
"""The keys in docs/events.md, the types that probes declare, and JSON that was printed."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest

from tests.unit.recording.test_recording import DATA
from tracer import probes
from tracer.model.event import LostBody, Place, Process
from tracer.probes.oom.decoder import Facts, Victim

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
BODIES = {
    "lost": LostBody,
    **{k: body for name in probes.names() for k, body in probes.get(name).bodies.items()},
}
# A released ktrace printed them, of every kind.
PRINTED = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_text().splitlines()]


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/events.md has no section {title}"
    return found[1]


def rows(title: str) -> Iterator[tuple[str, str]]:
    """The keys of a section's table, and what type it says that they have."""
    for line in re.findall(r"^\| `.*", section(title), re.MULTILINE):
        keys, type_ = line.split("|")[1:3]
        for key in re.findall(r"`([\w.]+)`", keys):
            yield key, type_.strip()


def keys_of(type_: str) -> set[str] | None:
    """Of `{number, name}` or a list of such."""
    found = re.search(r"\{([\w\[\], ]+)\}", type_)
    return {word.strip(" []") for word in found[1].split(",")} if found else None


def alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (UnionType, typing.Union):
        return [one for part in typing.get_args(hint) for one in alternatives(part)]
    return [hint]


def structure(hint: Any) -> Any:
    """The TypedDict that a hint is of, or a list of."""
    (meant,) = (one for one in alternatives(hint) if one is not NoneType)
    while typing.get_origin(meant) is list:
        (meant,) = typing.get_args(meant)
    return meant if typing.is_typeddict(meant) else None


def test_every_kind_has_a_type_and_a_section() -> None:
    kinds = {kind for name in probes.names() for kind in probes.get(name).whose}
    assert BODIES.keys() == kinds | {"lost"}
    assert {event["kind"] for event in PRINTED} == BODIES.keys()


@pytest.mark.parametrize("kind", BODIES)
def test_the_page_has_the_keys_of_the_type(kind: str) -> None:
    hints = typing.get_type_hints(BODIES[kind])
    told: dict[str, set[str] | None] = {}
    for key, type_ in rows(kind):
        outer, _, inner = key.partition(".")
        if inner:
            told[outer] = (told.get(outer) or set()) | {inner}
        else:
            told[outer] = keys_of(type_)
    assert told.keys() == hints.keys()
    for key, inner_keys in told.items():
        inner_type = structure(hints[key])
        if inner_keys is not None:
            assert inner_type is not None, key
            assert inner_keys == typing.get_type_hints(inner_type).keys(), key


def test_the_page_has_what_every_event_has() -> None:
    common = {key for key, _ in rows("Every event")}
    for event in PRINTED:
        assert list(event)[: len(common)] == [key for key, _ in rows("Every event")]


def check(value: Any, hint: Any, where: str) -> None:
    """Whether JSON is of a type."""
    possible = alternatives(hint)
    if value is None:
        assert NoneType in possible or Place in possible, where
        return
    (meant,) = (one for one in possible if one is not NoneType)
    if meant in (Process, Victim):
        keys = {key for key, _ in rows("process")}
        assert value.keys() == (keys | Facts.__annotations__.keys() if meant is Victim else keys)
    elif meant is Place:
        assert value.keys() == {key for key, _ in rows("pod")}, where
    elif typing.is_typeddict(meant):
        hints = typing.get_type_hints(meant)
        assert meant.__required_keys__ <= value.keys() <= hints.keys(), where
        for key, inner in value.items():
            check(inner, hints[key], f"{where}.{key}")
    elif typing.get_origin(meant) is list:
        for one in value:
            check(one, typing.get_args(meant)[0], where)
    else:
        assert type(value) is meant, where


@pytest.mark.parametrize("event", PRINTED, ids=lambda event: event["kind"])
def test_what_was_printed_is_of_the_type(event: dict[str, Any]) -> None:
    common = {key for key, _ in rows("Every event")}
    body = {key: value for key, value in event.items() if key not in common}
    check(body, BODIES[event["kind"]], event["kind"])


@pytest.mark.parametrize("kind", ["signal", "exit", "lost"])
def test_an_example_of_the_page_is_of_the_type(kind: str) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", section(kind), re.DOTALL)[:1]
    test_what_was_printed_is_of_the_type(json.loads(example))
