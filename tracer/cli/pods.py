# SPDX-License-Identifier: Apache-2.0
"""List the pods and containers of this node.

`ktrace pods`: the pods and containers of this node.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import sys

import click
import orjson

from tracer.cli._options import complete_namespace, cri_socket
from tracer.identity.inventory import Entry, current_names, inventory
from tracer.model.errors import KtraceError
from tracer.model.summary import summary
from tracer.outputs import listing
from tracer.outputs.escape import escape
from tracer.outputs.listing import Column


def run(namespaces: tuple[str, ...], output: str, no_headers: bool, cri_socket: str | None) -> None:
    entries = [
        entry
        for entry in inventory(current_names(cri_socket, _say))
        if not namespaces or any(fnmatch.fnmatchcase(entry.namespace or "", n) for n in namespaces)
    ]
    if output == "json":
        for entry in entries:
            line = orjson.dumps(dataclasses.asdict(entry), option=orjson.OPT_APPEND_NEWLINE)
            sys.stdout.buffer.write(line)
        return
    if not entries:
        raise KtraceError(
            "no containers on this node" + (" in that namespace" if namespaces else ""),
            "is this the right node? kubectl get pods -o wide tells where a pod runs",
        )
    wide = output == "wide"
    rows = (_row(entry, wide) for entry in entries)
    listing.show(COLUMNS + MORE_COLUMNS * wide, rows, wide=wide, headers=not no_headers)


def _say(words: str) -> None:
    click.echo(escape(f"ktrace: {words}"), err=True)


COLUMNS = [
    Column("NAMESPACE", 9),
    Column("POD", 16),
    Column("CONTAINER", 9),
    Column("ID", 12, 2),
    Column("PID", 7, 1),
    Column("QOS", 10, 3),
    Column("NETNS", 10, 4),
]
MORE_COLUMNS = [Column("RUNTIME", 10), Column("UID", 36), Column("CGROUP", 20)]


def _row(entry: Entry, wide: bool) -> list[listing.Value]:
    short_id = entry.container_id[:12] if entry.container_id else None
    row: list[listing.Value] = [
        entry.namespace,
        entry.pod or entry.pod_uid,
        entry.container,
        short_id,
    ]
    row += [entry.init_pid, entry.qos, entry.netns]
    return [*row, entry.runtime, entry.pod_uid, entry.cgroup] if wide else row


command = click.Command(
    "pods",
    params=[
        click.Option(
            ["-n", "--namespace", "namespaces"],
            multiple=True,
            metavar="NAME",
            shell_complete=complete_namespace,
            help="Only this namespace, or a glob. Repeatable.",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "wide", "json"]),
            default="table",
            show_default=True,
            help="wide adds runtime, uid and cgroup path; json is one object a line.",
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out the column titles."),
        cri_socket(),
    ],
    callback=run,
    help=summary(__doc__),
    epilog="\b\nExamples:\n  ktrace pods -o wide\n  ktrace pods -n shop -o json | jq .init_pid",
)
