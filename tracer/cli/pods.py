# SPDX-License-Identifier: Apache-2.0
"""`ktrace pods`: the pods and containers of this node."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys

import click
import orjson

from tracer.cli._options import cri_socket
from tracer.errors import KtraceError
from tracer.identity.inventory import Entry, current_names, inventory
from tracer.views.columns import UNKNOWN
from tracer.views.escape import escape


def run(namespaces: tuple[str, ...], output: str, no_headers: bool, cri_socket: str | None) -> None:
    entries = [
        entry
        for entry in inventory(current_names(cri_socket))
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
    _print(entries, wide=output == "wide", headers=not no_headers)


def _print(entries: list[Entry], wide: bool, headers: bool) -> None:
    titles = ["NAMESPACE", "POD", "CONTAINER", "ID", "PID", "QOS", "NETNS"]
    rows = [
        [e.namespace, e.pod or e.pod_uid, e.container, (e.container_id or "")[:12]]
        + [str(e.init_pid) if e.init_pid else None, e.qos, str(e.netns) if e.netns else None]
        for e in entries
    ]
    if wide:
        titles += ["RUNTIME", "UID", "CGROUP"]
        for row, e in zip(rows, entries, strict=True):
            row += [e.runtime, e.pod_uid, e.cgroup]
    shown = [titles] if headers else []
    shown += [[UNKNOWN if cell is None else escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


command = click.Command(
    "pods",
    params=[
        click.Option(["-n", "--namespace", "namespaces"], multiple=True, metavar="NAME"),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "wide", "json"]),
            default="table",
            help="wide adds runtime, uid and cgroup path.",
        ),
        click.Option(["--no-headers"], is_flag=True),
        cri_socket(),
    ],
    callback=run,
    help="List the pods and containers of this node.",
    epilog="\b\nExamples:\n  ktrace pods -o wide\n  ktrace pods -n shop -o json | jq .init_pid",
)
