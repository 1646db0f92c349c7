# SPDX-License-Identifier: Apache-2.0
"""A history's rows as objects (docs/agent.md) and as a table. The table is made of the objects,
because `kubectl ktrace` has only those."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

from tracer.outputs.listing import Column, Value

if TYPE_CHECKING:  # slow: SQLite
    from tracer.agent.history.query import Row

FORMS = ("table", "wide", "json")
COLUMNS = [
    Column("TIME", 20),
    Column("POD", 16),
    Column("CONTAINER", 9, 2),
    Column("CODE", 4, 1),
    Column("WHAT", 30, 3),
    Column("SURE", 7, 4),
]
MORE_COLUMNS = [Column("ID", 64), Column("UID", 36), Column("BEGAN", 20)]
_STATES = {True: "runs", False: "ended", None: "its end was not seen: no agent ran"}


class RowBody(TypedDict):
    time: str | None
    namespace: str | None
    pod: str | None
    pod_uid: str | None
    container: str | None
    container_id: str | None
    runtime: str | None
    began: str | None
    ended: str | None
    running: bool | None
    exit_code: int | None
    signal: int | None
    verdict: str | None
    certainty: str | None
    sentence: str | None
    is_end: bool | None
    recording: int | None
    offset: int | None


class NodeRowBody(RowBody):
    """Of one node among several."""

    node: str


def to_object(row: Row) -> RowBody:
    life, told = row.life, row.told
    return {
        "time": _iso(row.at_ns or None),
        "namespace": life.namespace,
        "pod": life.pod,
        "pod_uid": life.pod_uid,
        "container": life.container,
        "container_id": life.container_id,
        "runtime": life.runtime,
        "began": _iso(life.began_ns),
        "ended": _iso(life.ended_ns),
        "running": row.running,
        "exit_code": life.exit_code,
        "signal": life.signal,
        "verdict": told.verdict if told else None,
        "certainty": told.certainty if told else None,
        "sentence": told.sentence if told else None,
        "is_end": told.is_end if told else None,
        "recording": (told.segment or None) if told else None,
        "offset": told.offset if told and told.segment else None,
    }


def cells(told: RowBody, wide: bool) -> list[Value]:
    """The cells of an object's row. Raises `KeyError` or `TypeError` for what is no such object."""
    what = _STATES[told["running"]] if told["verdict"] is None else told["sentence"]
    shown = [_second(told["time"]), _title(told), told["container"], told["exit_code"]]
    shown += [what, told["certainty"]]
    more = [told["container_id"], told["pod_uid"], _second(told["began"])]
    return [*shown, *more] if wide else shown


def order(told: RowBody) -> tuple[bool, str]:
    """What a history's objects are in order of: what runs comes last. Raises as `cells`."""
    return told["running"] is not False, str(told["time"] or "")


def _title(told: RowBody) -> str | None:
    """As `Life.title`."""
    if told["pod"] is None:
        return told["pod_uid"] or told["container"] or told["container_id"] or None
    return f"{told['namespace']}/{told['pod']}" if told["namespace"] else told["pod"]


def _second(moment: str | None) -> str | None:
    return None if moment is None else moment[:19] + "Z"


def _iso(ns: int | None) -> str | None:
    if ns is None:
        return None
    second, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest:09d}Z"
