# SPDX-License-Identifier: Apache-2.0
"""Say what a recording is of: node, time, probes, pods, losses, damage.

`ktrace info FILE`: the contents of a recording, and whether it is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from tracer.cli._recording import check_whole
from tracer.cli._tracing import make_command
from tracer.model.event import Clock
from tracer.model.summary import summary
from tracer.outputs.escape import escape
from tracer.outputs.table import fit
from tracer.outputs.terminal import cells, terminal_width, wrapped
from tracer.probes.columns import UNKNOWN

if TYPE_CHECKING:
    from tracer.recording.overview import Overview
    from tracer.recording.reader import Reader


def run(file: str, output: str) -> None:
    from tracer.recording.overview import overview
    from tracer.recording.reader import Reader

    with Reader(Path(file)) as reader:
        told = _told(reader, overview(reader))
        if output == "json":
            click.echo(orjson.dumps(told))
        else:
            _show(told)
        check_whole(reader, file)


def _told(reader: Reader, seen: Overview) -> dict[str, Any]:
    """The object that `-o json` prints."""
    metadata = reader.metadata
    clock = Clock(metadata.clock_offset_ns)
    span = seen.first is not None and seen.last is not None
    events: dict[str, int] = {}
    pods: dict[str, dict[str, Any]] = {}
    for (kind, uid), count in sorted(seen.counts.items()):
        events[kind] = events.get(kind, 0) + count
        if uid:
            pod = seen.names.pods.get(uid)
            named = {"namespace": pod and pod.namespace, "name": pod and pod.name, "uid": uid}
            counts = pods.setdefault(uid, named | {"events": {}})["events"]
            counts[kind] = count
    return {
        "node": metadata.node or None,
        "kernel": metadata.kernel,
        "machine": metadata.machine,
        "boot_id": metadata.boot_id,
        "ktrace": metadata.ktrace,
        "first": clock.iso(seen.first or 0) if span else None,
        "last": clock.iso(seen.last or 0) if span else None,
        "seconds": ((seen.last or 0) - (seen.first or 0)) / 1e9 if span else None,
        "probes": metadata.attached,
        "events": events,
        "pods": list(pods.values()),
        "lost": dict(seen.lost),
        "unrecorded": seen.unrecorded,
        "complete": reader.ended and not reader.cut and not reader.damage,
        "bytes": reader.size,
        "usable_bytes": reader.used,
    }


def _show(told: dict[str, Any]) -> None:
    facts = [("node", f"{told['node'] or 'not known'}, Linux {told['kernel']} {told['machine']}")]
    if told["first"]:
        facts.append(("span", f"{told['first']} to {told['last']}, {told['seconds']:.1f} s"))
    facts += [("probe", f"{name}, by {point}") for name, point in told["probes"].items()]
    facts += [("events", _counts(told["events"])), ("lost", _counts(told["lost"]))]
    if told["unrecorded"]:
        facts.append(("unrecorded", f"{told['unrecorded']} events"))
    whole = "yes" if told["complete"] else "no, it was not ended in order"
    facts.append(("complete", f"{whole}; {told['usable_bytes']} of {told['bytes']} bytes"))
    width = terminal_width()
    for title, fact in facts:
        click.echo(wrapped(f"{title:<12}{escape(fact)}", 12, width))
    if told["pods"]:
        click.echo()
        _show_pods(told["pods"], list(told["events"]))


def _show_pods(pods: list[dict[str, Any]], kinds: list[str]) -> None:
    """The pod with the most events first."""
    rows = [["NAMESPACE", "POD", *(escape(kind).upper() for kind in kinds)]]
    for pod in sorted(pods, key=lambda pod: -sum(pod["events"].values())):
        counts = [str(pod["events"].get(kind, 0)) for kind in kinds]
        rows.append([escape(pod["namespace"] or UNKNOWN), escape(pod["name"] or pod["uid"])])
        rows[-1] += counts
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo(fit(row, widths, terminal_width()))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"


command = make_command(
    "info",
    summary(__doc__),
    ("ktrace info incident.ktrace", "ktrace info incident.ktrace -o json | jq .pods"),
    [
        click.Argument(["file"], type=click.Path(readable=False), metavar="FILE"),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            default="table",
            show_default=True,
            help="json is one object.",
        ),
    ],
    run,
)
