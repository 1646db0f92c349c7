# SPDX-License-Identifier: Apache-2.0
"""Show which pods are hurt, how, and since when, on the whole screen.

`ktrace live`: the live view, for use during an incident, or afterwards with a recording.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli._options import (
    complete_probes,
    cri_socket,
    every_probe,
    kubernetes,
    limits,
    no_argv,
    node_name,
    or_file,
    probe_options,
    selection,
    selectors,
)
from tracer.cli._recording import check_whole, selection_of_recording
from tracer.cli._tracing import closing_line, make_command, record_option, request, tell_ready
from tracer.cli.trace import chosen_probes
from tracer.model.errors import KtraceError, UsageError
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.outputs.escape import escape
from tracer.recording import SUFFIX

if TYPE_CHECKING:
    from datetime import tzinfo

    from tracer.live.feed import Feed
    from tracer.live.model import Snapshot
    from tracer.session.run import TraceRequest

# Characters of a failure's message.
MAX_FAILURE = 300
LEAVING_SECONDS = 5.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Post = Callable[["Snapshot"], None]
Note = Callable[[str], None]


def run(what: str | None, speed: str, zone: str | None, **values: Any) -> None:
    _check_terminal()
    chosen_zone = _zone(zone)
    if what and (Path(what).is_file() or what.endswith(SUFFIX) or "/" in what):
        _show(lambda post, note: _player(what, speed, values, post), chosen_zone)
    else:
        wanted = chosen_probes(what) if what else every_probe()
        asked = request(wanted, values)  # its errors are shown before anything is drawn
        _show(lambda post, note: _node(asked, values, post, note), chosen_zone)


def _node(asked: TraceRequest, values: Mapping[str, Any], post: Post, note: Note) -> Feed:
    from tracer.live.node import NodeFeed

    def attached() -> None:
        tell_ready(values["ready_file"])

    file = values["recording"]
    recording = Path(file) if file else None
    return NodeFeed(asked, values["node_name"], recording, attached, post, note)


def _player(file: str, speed: str, values: Mapping[str, Any], post: Post) -> Feed:
    from tracer.live.player import Player

    chosen = selection_of_recording(values)
    return Player(Path(file), chosen, None if speed == "max" else float(speed), post)


def _show(make_feed: Callable[[Post, Note], Feed], zone: tzinfo | None) -> None:
    """Draws until the user leaves; then prints the summary."""
    from tracer.live.app import LiveApp

    by_kind = {kind: probe for probe in every_probe() for kind in probe.whose}
    app = LiveApp(make_feed, by_kind, _parse_selectors, zone)

    def end(number: int, frame: object) -> None:
        _insist()
        app.leave()

    before = [(s, signal.signal(s, end)) for s in _ENDING]
    try:
        app.run()
    except Exception as error:
        app.abandon(error)
    for number, handler in before:
        signal.signal(number, handler)
    app.wait()
    if app.feed.probes or not app.failure:
        forgotten = app.feed.model.timelines.forgotten
        click.echo(closing_line(app.feed.summary(), forgotten=forgotten), err=True)
    if app.failure:
        raise _told(app.failure) from app.failure
    if app.feed.player and app.feed.player.read:
        check_whole(app.feed.player.read, str(app.feed.player.path))


def _insist() -> None:
    """Ends the process even if drawing blocks for ever, on a terminal that has vanished or stopped
    reading."""
    last = threading.Timer(LEAVING_SECONDS, os._exit, [1])
    last.daemon = True
    last.start()


def _told(failure: BaseException) -> KtraceError:
    """An unexpected error in one line, with its place."""
    if isinstance(failure, KtraceError):
        return failure
    place = traceback.extract_tb(failure.__traceback__)[-1]
    what = escape(f"{type(failure).__name__}: {failure}"[:MAX_FAILURE])
    return KtraceError(
        f"the live view failed at {Path(place.filename).name}:{place.lineno}: {what}",
        "this is a mistake in ktrace: please report that line",
    )


def _check_terminal() -> None:
    streams = (sys.stdin, sys.stdout)
    if not all(stream.isatty() for stream in streams) or os.environ.get("TERM") in ("", "dumb"):
        raise UsageError(
            "the live view needs a terminal",
            "without one: ktrace trace … -o json; of a recording: ktrace replay FILE",
        )


def _zone(name: str | None) -> tzinfo | None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"there is no time zone {name!r}", "give UTC, or a name such as Europe/Berlin"
        ) from error


def _parse_selectors(words: Sequence[str]) -> Selection:
    """The selection for the words of the filter's prompt."""
    parser = click.Command("filter", params=list(selectors()), add_help_option=False)
    try:
        return selection(parser.make_context("filter", list(words)).params)
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error


command = make_command(
    "live",
    summary(__doc__),
    (
        "ktrace live                          every probe, every pod",
        "ktrace live signals,exits,oom -n shop",
        "ktrace live --record node.ktrace     and keep it",
        "ktrace live --kubernetes             and what Kubernetes says of the pods",
        "ktrace live node.ktrace              a recording, with a time bar",
    ),
    [
        click.Argument(
            ["what"],
            metavar="[PROBE[,PROBE…]|FILE]",
            required=False,
            shell_complete=or_file(complete_probes),
        ),
        *probe_options(every_probe()),
        *selectors(),
        *limits(),
        click.Option(
            ["--speed"],
            type=click.Choice(["1", "10", "max"]),
            default="max",
            show_default=True,
            help="How fast a recording begins to play: 1 is as fast as it happened.",
        ),
        click.Option(
            ["--time-zone", "zone"], metavar="NAME", help="Of all times; default: this machine's."
        ),
        record_option(),
        no_argv(),
        *kubernetes(),
        cri_socket(),
        node_name(),
    ],
    run,
)
