# SPDX-License-Identifier: Apache-2.0
"""List what ended or was hurt on this node, from the agent's history.

`ktrace history`: what ended or was hurt on this node, as the agent has seen it.
"""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import orjson

from tracer.agent.history import table
from tracer.agent.history.query import History, exists, wants
from tracer.cli._history import directory as directory_option
from tracer.cli._options import Duration
from tracer.model.errors import KtraceError, NoSuchPod, UsageError
from tracer.model.summary import summary
from tracer.outputs import listing
from tracer.outputs.escape import escape

NS = 1_000_000_000
# How far ahead the end of a `--cut` may be.
AHEAD = timedelta(hours=1)
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?")


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
    if form not in table.FORMS:
        raise UsageError(f"-o {form!r} is none of {', '.join(table.FORMS)}", "a FILE needs --cut")
    _require(directory)
    history = History(directory)
    since_ns = -(1 << 63) if since is None else time.time_ns() - int(since * NS)
    rows = history.rows(wants(what, namespaces, containers), since_ns, running=what is not None)
    history.close()
    if history.doubt:
        _say(f"{history.doubt}; this is from the recordings")
    if not rows and what is not None:
        raise NoSuchPod(
            f"the history knows nothing of {what!r}",
            "ktrace history lists what ended or was hurt; --since reaches back only so far",
        )
    if form == "json":
        for one in map(table.to_object, rows):
            sys.stdout.buffer.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
    else:
        if not rows:
            click.echo("ktrace: the history tells of nothing that ended or was hurt", err=True)
        wide = form == "wide"
        columns = table.COLUMNS + table.MORE_COLUMNS * wide
        shown = (table.cells(table.to_object(row), wide) for row in rows)
        listing.show(columns, shown, wide=wide, headers=not no_headers)


def _require(directory: Path) -> None:
    if not exists(directory):
        raise KtraceError(
            f"there is no history in {directory}", "ktrace agent keeps one; --dir tells where"
        )


def _cut(directory: Path, span: str, output: str | None) -> None:
    if not output or output in table.FORMS:
        raise UsageError("--cut needs a file", "add -o incident.ktrace")
    first, dots, last = span.partition("..")
    if not dots:
        raise UsageError(f"--cut {span!r} is no span", "such as 03:10..03:14")
    now = datetime.now(timezone.utc)
    end = _moment(last, now + AHEAD)  # `..03:14` may be said at 03:13
    begin = _moment(first, end)
    if begin > end:
        raise UsageError(f"--cut {span!r} ends before it begins")
    _require(directory)
    from tracer.agent.history.cut import cut
    from tracer.recording.files import SingleFile, Stream

    to_stdout = output == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError("-o - takes recordings, and no terminal", "give a file with -o")
    written = cut(
        *(directory, _ns(begin), _ns(end) + NS - 1, Path(output), _say),
        (lambda _: Stream(sys.stdout.fileno())) if to_stdout else SingleFile,
    )
    if not written:
        raise KtraceError(
            f"the history holds nothing between {begin:%Y-%m-%dT%H:%M:%SZ}"
            f" and {end:%Y-%m-%dT%H:%M:%SZ}",
            "ktrace history shows what it holds",
        )
    for path in () if to_stdout else written:
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
            help="wide adds ids and the begin; json is one object a line; with --cut a file, or -.",
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out the column titles."),
        directory_option(),
    ],
    callback=run,
    help=summary(__doc__),
    epilog="\b\nExamples:\n"
    "  ktrace history --since 2h                   everything of the last two hours\n"
    "  ktrace history shop/web-0                   one pod, also if it is gone\n"
    "  ktrace history 3f2a9c77                     a container, by the beginning of its id\n"
    "  ktrace history --cut 03:10..03:14 -o incident.ktrace\n"
    "  ktrace why shop/web-0                       the last death, with its evidence\n",
    context_settings={"max_content_width": 110},
)
