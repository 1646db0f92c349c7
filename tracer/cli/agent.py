# SPDX-License-Identifier: Apache-2.0
"""Trace every pod of this node, always: verdicts, a history, and where to publish them.

`ktrace agent`: always on, one a node.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tracer import backends
from tracer.agent import publishers
from tracer.agent.history.bounds import Bounds
from tracer.agent.listener import host_and_port
from tracer.agent.lock import holder
from tracer.cli._file import config_option
from tracer.cli._history import directory as directory_option
from tracer.cli._options import (
    Duration,
    Size,
    cri_socket,
    every_probe,
    kubernetes,
    limits,
    no_argv,
    node_name,
    probe_options,
)
from tracer.cli._tracing import (
    closing_line,
    make_command,
    node_of,
    request,
    say,
    stop_on_signals,
    tell_ready,
)
from tracer.model.errors import KtraceError, UsageError
from tracer.model.summary import summary
from tracer.model.units import size, span
from tracer.outputs.escape import escape

LISTEN = "127.0.0.1:9464"
# The selectors of the commands that trace: the agent traces every pod.
_EVERY_POD: Mapping[str, Any] = {
    **dict.fromkeys(("pods", "namespaces", "containers", "labels", "sender_pods", "pids"), ()),
    **{"everything": False, "wait": True, "count": None, "duration": None},
}
_UNITS: Mapping[publishers.Unit, click.ParamType[Any] | None] = {
    "plain": None,
    "duration": Duration(),
    "size": Size(),
}


def run(check: bool, listen: str, **values: Any) -> None:
    directory = Path(values["dir"])
    chosen = _chosen(listen, values)
    if listen:
        host_and_port(listen)  # also --check says what is wrong with it
    if check:
        raise SystemExit(_check(directory, listen, chosen, values))
    from tracer.agent.agent import Agent, Settings

    settings = Settings(
        directory=directory,
        bounds=_bounds(values),
        request=request(every_probe(), {**values, **_EVERY_POD}),
        node=node_of(values["node_name"]),
        listen=listen,
        publishers=chosen,
    )
    agent = Agent(settings, say)
    stop_on_signals(agent)

    def attached() -> None:
        tell_ready(values["ready_file"])
        on = ", ".join(chosen) or "nothing"
        say(f"ktrace: the agent traces {settings.node or 'this node'}; it publishes to {on}")

    summary = agent.run(attached)
    click.echo(closing_line(summary, agent.unrecorded, agent.health().forgotten), err=True)


def _bounds(values: Mapping[str, Any]) -> Bounds:
    return Bounds(
        values["history_time"], values["history_max_size"], values["history_max_share"] / 100
    )


def _chosen(listen: str, values: Mapping[str, Any]) -> dict[str, publishers.Options]:
    """The options of the publishers that are on."""
    chosen = {}
    for name in publishers.names():
        publisher = publishers.get(name)
        asked = publishers.asked(name, publisher.options)
        options = publisher.options(**{one.field: values[one.name] for one in asked})
        if values[name]:
            if publisher.serves and not listen:
                raise UsageError(
                    f"--{name} has a page, and --listen '' is nowhere",
                    f"give --listen ADDRESS:PORT, such as {LISTEN}",
                )
            publisher.require(options)
            chosen[name] = options
    return chosen


def _check(
    directory: Path,
    listen: str,
    chosen: Mapping[str, publishers.Options],
    values: Mapping[str, Any],
) -> int:
    """Says what the agent would do, and what it lacks for that."""
    refused: dict[tuple[str, str | None], list[str]] = {}
    asked = request(every_probe(), {**values, **_EVERY_POD})
    for probe in asked.probes:
        asked.settings(probe)
        try:
            name = backends.choose(asked.backend, [probe], lambda words: None).name
            _line("traces", f"{probe.name}, by backend {name}")
        except KtraceError as error:
            refused.setdefault((error.message, error.remedy), []).append(probe.name)
    for (message, remedy), names in refused.items():
        _lack(f"{', '.join(names)}: {message}", remedy)
    lacks = len(refused) + _check_directory(directory, _bounds(values))
    _line("answers", f"on http://{listen}/healthz" if listen else "nobody on the network")
    for name, options in chosen.items():
        for words in publishers.get(name).plan(options):
            _line("publishes", f"{name}: {words}")
    if not chosen:
        _line("publishes", f"nothing; there are {', '.join(publishers.names()) or 'no publishers'}")
    return int(lacks > 0)


def _check_directory(directory: Path, bounds: Bounds) -> int:
    """With the smaller of its two bounds in bytes. A directory that is still to be made is judged
    by the nearest that exists."""
    there = next((path for path in (directory, *directory.parents) if path.is_dir()), Path("/"))
    most = bounds.bytes(there)
    why = "" if most == bounds.size else f", {bounds.share * 100:g} % of its file system"
    _line("keeps", f"its history in {directory}: {span(int(bounds.seconds * 1e9))}")
    _line("", f"at most {size(most)}{why}")
    pid = holder(directory)
    if pid is not None:
        who = f"another agent, process {pid or '?'},"
        _lack(f"{who} serves {directory}", "one agent a node is enough")
    if not os.access(there, os.W_OK):
        _lack(f"nothing can be written in {there}", "give another directory with --dir")
    return (pid is not None) + (not os.access(there, os.W_OK))


def _line(what: str, words: str) -> None:
    click.echo(f"{what:10} {escape(words)}")


def _lack(what: str, remedy: str | None) -> None:
    _line("lacks", what)
    if remedy:
        _line("", remedy)
    sys.stdout.flush()


def _options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--check"],
            is_flag=True,
            help="Only say what the agent would do, and what it lacks; exit code 1 if anything.",
        ),
        config_option(),
        directory_option(),
        click.Option(
            ["--history-time"],
            type=Duration(),
            default="7d",
            show_default=True,
            metavar="TIME",
            help="How far it reaches back at most.",
        ),
        click.Option(
            ["--history-max-size"],
            type=Size(),
            default="1G",
            show_default=True,
            metavar="SIZE",
            help="How much it takes at most; the oldest makes room.",
        ),
        click.Option(
            ["--history-max-share"],
            type=click.FloatRange(0, 100, min_open=True),
            default=10,
            show_default=True,
            metavar="PERCENT",
            help="The part of the file system that it never exceeds.",
        ),
        click.Option(
            ["--listen"],
            default=LISTEN,
            show_default=True,
            metavar="ADDRESS:PORT",
            help="Where /healthz and the publishers' pages are; '' is nowhere.",
        ),
        *_publisher_options(),
        *probe_options(every_probe()),
        *(option for option in limits() if option.name != "duration"),
        no_argv(),
        *kubernetes(),
        cri_socket(),
        node_name(),
    ]


def _publisher_options() -> list[click.Parameter]:
    return [
        click.Option(
            [_words(one), one.name],
            default=list(one.default) if isinstance(one.default, tuple) else one.default,
            multiple=isinstance(one.default, tuple),
            type=_UNITS[one.unit],
            is_flag=isinstance(one.default, bool),
            metavar=one.metavar,
            help=one.help,
        )
        for name in publishers.names()
        for one in publishers.asked(name, publishers.get(name).options)
    ]


def _words(one: publishers.Asked) -> str:
    word = one.name.replace("_", "-")
    return f"--{word}/--no-{word}" if one.default is True else f"--{word}"


command = make_command(
    "agent",
    summary(__doc__),
    (
        "ktrace agent                              with a history in /var/lib/ktrace",
        "ktrace agent --check                      what it would do, and what it lacks",
        "ktrace agent --config /etc/ktrace.yaml    options from a file, by the same words",
        "KTRACE_DIR=/data ktrace agent             options from the environment",
    ),
    _options(),
    run,
)
command.context_settings["auto_envvar_prefix"] = "KTRACE"
