# SPDX-License-Identifier: Apache-2.0
"""`ktrace history`: what ended or was hurt on this node, as the agent has seen it."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import orjson

from tracer.agent.history.query import History, Row, exists, wants
from tracer.cli import _listing
from tracer.cli._history import directory as directory_option
from tracer.cli._listing import Column
from tracer.cli._options import Duration
from tracer.model.errors import KtraceError, NoSuchPod, UsageError
from tracer.outputs.escape import escape

NS = 1_000_000_000
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?")
_FORMS = ("table", "wide", "json")


def run(
    what: str | None,
    namespaces: tuple[str, ...],
    containers: tuple[str, ...],
    since: float | None,
    output: str | None,
    cut: str | None,
    no_headers: bool,
    **values: Any,
) -> None:
    directory = Path(values["dir"])
    if cut is not None:
        _cut(directory, cut, output)
        return
    form = output or "table"
    if form not in _FORMS:
        raise UsageError(f"-o {form!r} is none of {', '.join(_FORMS)}", "a FILE needs --cut")
    if not exists(directory):
        raise KtraceError(
            f"there is no history in {directory}, or only root may read it",
            "ktrace agent keeps one; --dir tells where",
        )
    history = History(directory)
    if not history.whole:
        click.echo("ktrace: the index is missing or damaged: this is from the recordings", err=True)
    since_ns = -(1 << 63) if since is None else time.time_ns() - int(since * NS)
    rows = history.rows(wants(what, namespaces, containers), since_ns, running=what is not None)
    history.close()
    if not rows and what is not None:
        raise NoSuchPod(
            f"the history knows nothing of {what!r}",
            "ktrace history lists what ended or was hurt; --since reaches back only so far",
        )
    if form == "json":
        for row in rows:
            sys.stdout.buffer.write(orjson.dumps(_json(row), option=orjson.OPT_APPEND_NEWLINE))
    else:
        wide = form == "wide"
        shown = (_row(row, wide) for row in rows)
        _listing.show(COLUMNS + MORE_COLUMNS * wide, shown, wide=wide, headers=not no_headers)


def _cut(directory: Path, span: str, output: str | None) -> None:
    if not output or output in _FORMS:
        raise UsageError("--cut needs a file", "add -o incident.ktrace")
    first, dots, last = span.partition("..")
    if not dots:
        raise UsageError(f"--cut {span!r} is no span", "such as 03:10..03:14")
    now = datetime.now(timezone.utc)
    end = _moment(last, now)
    begin = _moment(first, end)
    if begin > end:
        raise UsageError(f"--cut {span!r} ends before it begins")
    from tracer.agent.history.cut import cut

    written = cut(directory, _ns(begin), _ns(end) + NS - 1, Path(output), _say)
    if not written:
        raise KtraceError(
            f"the history holds nothing between {begin:%Y-%m-%dT%H:%M:%SZ}"
            f" and {end:%Y-%m-%dT%H:%M:%SZ}",
            "ktrace history shows what it holds",
        )
    for path in written:
        click.echo(f"ktrace: {path} holds {begin:%Y-%m-%dT%H:%M:%SZ} to {end:%H:%M:%SZ}", err=True)


def _say(words: str) -> None:
    click.echo(escape(f"ktrace: {words}"), err=True)


def _moment(text: str, before: datetime) -> datetime:
    """`03:10`, the last one before a moment, or a whole time; UTC."""
    clock = _CLOCK.fullmatch(text)
    try:
        if clock:
            hour, minute, second = (int(part or 0) for part in clock.groups())
            found = before.replace(hour=hour, minute=minute, second=second, microsecond=0)
            return found if found <= before else found - timedelta(days=1)
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise UsageError(
            f"--cut: {text!r} is no time", "03:10, 03:10:30 or 2026-11-26T03:10:00Z, in UTC"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _ns(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()) * NS


def _iso(ns: int | None) -> str | None:
    if ns is None:
        return None
    second, rest = divmod(ns, NS)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest:09d}Z"


def _json(row: Row) -> dict[str, Any]:
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
        "verdict": told and told.verdict,
        "certainty": told and told.certainty,
        "sentence": told and told.sentence,
        "recording": (told and told.segment) or None,
        "offset": told and told.offset if told and told.segment else None,
    }


COLUMNS = [
    Column("TIME", 20),
    Column("POD", 16),
    Column("CONTAINER", 9, 2),
    Column("CODE", 4, 1),
    Column("WHAT", 30, 3),
    Column("SURE", 7, 4),
]
MORE_COLUMNS = [Column("ID", 64), Column("UID", 36), Column("BEGAN", 20)]


def _row(row: Row, wide: bool) -> list[_listing.Value]:
    life, told = row.life, row.told
    what = told.sentence if told else _STATES[row.running]
    moment = _iso(row.at_ns or None)
    shown: list[_listing.Value] = [
        moment and moment[:19] + "Z",
        life.title or None,
        life.container,
        life.exit_code,
    ]
    shown += [what, told.certainty if told else None]
    began = _iso(life.began_ns)
    more = [life.container_id, life.pod_uid, began and began[:19] + "Z"]
    return [*shown, *more] if wide else shown


_STATES = {True: "runs", False: "ended", None: "its end was not seen: no agent ran"}


command = click.Command(
    "history",
    params=[
        click.Argument(["what"], metavar="[POD|CONTAINER ID]", required=False),
        click.Option(
            ["-n", "--namespace", "namespaces"],
            multiple=True,
            metavar="NAME",
            help="Only this namespace, or a glob. Repeatable.",
        ),
        click.Option(
            ["-c", "--container", "containers"],
            multiple=True,
            metavar="NAME",
            help="Only this container: a name, a glob or the beginning of an id. Repeatable.",
        ),
        click.Option(
            ["--since"], type=Duration(), metavar="TIME", help="Only the last 2h, 30m, 7d …"
        ),
        click.Option(
            ["--cut"],
            metavar="FROM..TO",
            help="Write a recording of this time (UTC) to -o FILE: 03:10..03:14.",
        ),
        click.Option(
            ["-o", "--output"],
            metavar="[table|wide|json]|FILE",
            help="wide adds ids and the begin; json is one object a line; with --cut a file.",
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out the column titles."),
        directory_option(),
    ],
    callback=run,
    help="List what ended or was hurt on this node, from the agent's history.",
    epilog="\b\nExamples:\n"
    "  ktrace history --since 2h                   everything of the last two hours\n"
    "  ktrace history shop/web-0                   one pod, also if it is gone\n"
    "  ktrace history 3f2a9c77                     a container, by the beginning of its id\n"
    "  ktrace history --cut 03:10..03:14 -o incident.ktrace\n"
    "  ktrace why shop/web-0                       the last death, with its evidence\n",
    context_settings={"max_content_width": 110},
)
