# SPDX-License-Identifier: Apache-2.0
"""What the index holds, and how it stands in a recording: as the JSON of a HISTORY block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson

from tracer.agent.item import Life
from tracer.model.errors import BadRecording

_TEXTS = ("pod_uid", "namespace", "pod", "container", "container_id", "runtime")
_NUMBERS = ("began_ns", "ended_ns", "exit_code", "signal")
LIFE_FIELDS = (*_TEXTS, *_NUMBERS)
# SQLite's integers, and those of the times here.
_MOST = 1 << 63


@dataclass(frozen=True, slots=True)
class Told:
    """A verdict. `at_ns` is the explained moment, since 1970. `json` is one line of docs/events.md,
    `text` what `ktrace why` prints. `is_end` says whether it is on the life's end. `segment` and
    `offset` are the recording and the place in it where the evidence is, or the first of it that is
    still there; 0 if it was not recorded."""

    life: Life
    at_ns: int
    verdict: str
    certainty: str
    sentence: str
    is_end: bool
    json: bytes
    text: str
    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Entries:
    """Lives as far as they are known, and verdicts."""

    lives: tuple[Life, ...] = ()
    verdicts: tuple[Told, ...] = ()

    def json(self) -> dict[str, Any]:
        return {
            "lives": [asdict(life) for life in self.lives],
            "verdicts": [
                {f.name: getattr(told, f.name) for f in fields(Told)}
                | {"life": asdict(told.life), "json": orjson.Fragment(told.json.rstrip(b"\n"))}
                for told in self.verdicts
            ],
        }


def entries_of(value: Any) -> Entries:
    """The opposite. Raises `BadRecording`."""
    try:
        return Entries(
            tuple(_life_of(told) for told in value.get("lives", ())),
            tuple(_told_of(told) for told in value.get("verdicts", ())),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRecording("a history block is not of the form that it should have") from error


def _life_of(told: Mapping[str, Any]) -> Life:
    _check((told.get(name) for name in _TEXTS), str)
    _check((told.get(name) for name in _NUMBERS), int)
    return Life(**{name: told.get(name) for name in LIFE_FIELDS})


def _told_of(told: Mapping[str, Any]) -> Told:
    texts = [told[name] for name in ("verdict", "certainty", "sentence", "text")]
    numbers = [told[name] for name in ("at_ns", "segment", "offset")]
    _check(texts, str)
    _check(numbers, int)
    if None in texts or None in numbers or not isinstance(told["json"], dict):
        raise ValueError
    return Told(
        *(_life_of(told["life"]), told["at_ns"], told["verdict"], told["certainty"]),
        *(told["sentence"], bool(told["is_end"]), orjson.dumps(told["json"]), told["text"]),
        *(told["segment"], told["offset"]),
    )


def _check(values: Iterable[Any], wanted: type) -> None:
    for value in values:
        if value is not None and type(value) is not wanted:
            raise TypeError
        if isinstance(value, int) and not -_MOST <= value < _MOST:
            raise ValueError
