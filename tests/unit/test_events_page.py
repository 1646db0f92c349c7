# SPDX-License-Identifier: Apache-2.0
"""The keys in docs/events.md, docs/verdicts.md and docs/agent.md, the types of what is printed,
and JSON that was printed."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest

from tests.unit.agent import test_history
from tests.unit.documents import page
from tests.unit.kubernetes import objects
from tests.unit.recording.test_recording import DATA
from tests.unit.why import test_told
from tracer import probes
from tracer.agent.history.table import RowBody
from tracer.cli import root
from tracer.model.event import LostBody, Place, Process
from tracer.model.verdict import (
    CauseBody,
    KubeContainerBody,
    KubeEndBody,
    KubeEventBody,
    KubeObject,
    KubePodBody,
    KubeProbeBody,
    KubernetesBody,
    Moment,
    Reference,
    VerdictBody,
)
from tracer.probes.oom.decoder import Facts, Victim

PAGE = page("events.md")
VERDICTS = page("verdicts.md")
AGENT = page("agent.md")
BODIES = {
    "lost": LostBody,
    **{k: body for name in probes.names() for k, body in probes.get(name).bodies.items()},
}
# A released ktrace printed them, of every kind that it had.
PRINTED = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_text().splitlines()]


def section(title: str, text: str = PAGE) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no page has a section {title}"
    return found[1]


def rows(title: str, text: str = PAGE) -> Iterator[tuple[str, str]]:
    """The keys of a section's table, and what type it says that they have."""
    for line in re.findall(r"^\| `.*", section(title, text), re.MULTILINE):
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
    assert {event["kind"] for event in PRINTED} <= BODIES.keys()


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


# Verdicts and the history


def test_the_page_has_the_keys_of_a_verdict() -> None:
    hints = typing.get_type_hints(VerdictBody)
    common = [key for key, _ in rows("Every event")]
    told = dict(rows("Keys", VERDICTS.partition("\n\n| id |")[0]))
    assert told.keys() == hints.keys() | set(common)
    assert keys_of(told["evidence"]) == typing.get_type_hints(Reference).keys()
    more = set(re.findall(r"`(\w+)`", told["timeline"]))
    assert more == typing.get_type_hints(Moment).keys() - typing.get_type_hints(Reference).keys()
    assert keys_of(told["others"]) == typing.get_type_hints(CauseBody).keys()
    listed = re.findall(
        r"`(\w+)`", section("verdict").partition("The keys ")[2].partition(" are ")[0]
    )
    assert set(listed) == hints.keys()


def test_the_page_has_the_keys_of_kubernetes_word() -> None:
    told: dict[str, set[str]] = {"events": set(), "pod": set()}
    for line in re.findall(r"^\| `.*", section("kubernetes", VERDICTS), re.MULTILINE):
        cells = line.split("|")
        of = ""
        for key in re.findall(r"`([\w.\[\]]+)`", cells[1]):
            outer, dot, inner = key.replace("[]", "").partition(".")
            of = outer if dot else of
            told[of].add(inner if dot else outer)
        for key, type_ in {"object": KubeObject, "containers": KubeContainerBody}.items():
            if f".{key}`" in cells[1]:
                assert keys_of(cells[2]) == typing.get_type_hints(type_).keys()
        for key, type_ in {"last_end": KubeEndBody, "probes": KubeProbeBody}.items():
            if found := re.search(rf"`{key}` (?:is|are) `({{.*?}})`", cells[3]):
                assert keys_of(found[1]) == typing.get_type_hints(type_).keys()
    assert told["events"] == typing.get_type_hints(KubeEventBody).keys()
    assert told["pod"] == typing.get_type_hints(KubePodBody).keys()
    assert told.keys() == typing.get_type_hints(KubernetesBody).keys()


def verdicts() -> Iterator[dict[str, Any]]:
    """Of a recording, of a pod that Kubernetes speaks of, and the example of the page."""
    program = [sys.executable, "-m", "tracer", "why", str(DATA / "format-1.0.ktrace"), "-o", "json"]
    printed = subprocess.run(program, capture_output=True, text=True, check=False).stdout
    yield from map(json.loads, printed.splitlines())
    _, line = test_told.shown(
        objects.event("Unhealthy", "no", first=6, last=9, count=3), objects.pod()
    )
    assert line["kubernetes"]["pod"]["containers"][0]["probes"]
    assert line["kubernetes"]["pod"]["containers"][0]["last_end"]
    yield line
    (example,) = re.findall(r"```json\n(.*?)```", section("verdict"), re.DOTALL)
    yield json.loads(example)


def test_verdicts_that_were_printed_are_of_the_type() -> None:
    common = {key for key, _ in rows("Every event")}
    every = list(verdicts())
    assert len(every) == 3
    for event in every:
        assert common <= event.keys()
        check({k: v for k, v in event.items() if k not in common}, VerdictBody, "verdict")


def test_the_page_has_the_keys_of_a_history() -> None:
    section_ = AGENT.partition("`-o json` gives one object a line:")[2].partition("\n\nThe ")[0]
    told = re.findall(r"^\| (`.*?) \|", section_, re.MULTILINE)
    keys = {key for row in told for key in re.findall(r"`(\w+)`", row)}
    assert keys == typing.get_type_hints(RowBody).keys()


def test_a_history_that_was_printed_is_of_the_type(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A death with a verdict, one without any, and what nobody saw end."""
    keeping = test_history.Keeping(tmp_path)
    lives = [dataclasses.replace(test_history.WEB, container_id=c * 64) for c in "bc"]
    for life in lives:
        keeping.store.live(life)
    keeping.tell(test_history.told())
    keeping.close()
    root.main(
        ["history", "--dir", str(tmp_path), "shop/web-0", "-o", "json"], standalone_mode=False
    )
    printed = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert {row["verdict"] for row in printed} == {"killed_from_host", None}
    for row in printed:
        check(row, RowBody, "history")
