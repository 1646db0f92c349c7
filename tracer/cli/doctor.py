# SPDX-License-Identifier: Apache-2.0
"""Check what this node can tell, what it cannot, and what mends that.

`ktrace doctor`: what works on this node, what does not, and the remedies.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import click
import orjson

from tracer import backends, probes
from tracer.backends.lack import Lack
from tracer.backends.privileges import missing_capabilities
from tracer.cli import _in_pod
from tracer.cli._findings import SIGNS, Finding, State
from tracer.cli._options import cri_socket as cri_socket_option
from tracer.cli._options import in_colour
from tracer.cli._options import node_name as node_name_option
from tracer.kernel import node
from tracer.kernel.limits import check_descriptors
from tracer.model.errors import KtraceError, LimitReached
from tracer.model.summary import summary
from tracer.model.units import counted
from tracer.outputs.escape import escape
from tracer.outputs.terminal import terminal_width, wrapped


def run(output: str, cri_socket: str | None, node_name: str | None) -> None:
    problems = 0
    for finding in findings(cri_socket, node_name):
        problems += finding.state == "problem"
        if output == "json":
            click.echo(orjson.dumps(asdict(finding)))
        else:
            _print(finding)
    if problems:
        raise SystemExit(1)


def findings(cri_socket: str | None, node_name: str | None = None) -> Iterator[Finding]:
    signs = node.signs_of_a_pod()
    yield Finding("ok", "kernel", f"{platform.release()} {platform.machine()}")
    yield from _in_pod.where(signs, node_name)
    yield from _in_pod.privileges(signs, missing_capabilities())
    yield from _descriptors()
    lacks = {name: backends.lacking(name) for name in backends.NAMES}
    yield from _backends(lacks)
    yield _tracefs()
    yield _in_pod.cgroups(signs)
    yield from _in_pod.processes(signs)
    yield _in_pod.kernel_log(signs)
    yield from _runtimes(cri_socket, bool(signs))
    yield from _probes([name for name, lacking in lacks.items() if not lacking])


def _descriptors() -> Iterator[Finding]:
    try:
        check_descriptors(len(probes.names()))
    except LimitReached as error:
        yield Finding("problem", "limits", error.message, error.remedy)


def _tracefs() -> Finding:
    for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.exists(f"{path}/events"):
            return Finding("ok", "tracefs", path)
    remedy = "not needed by the probes below; mount -t tracefs nodev /sys/kernel/tracing"
    return Finding("note", "tracefs", "not mounted", remedy)


def _runtimes(socket: str | None, in_pod: bool = False) -> Iterator[Finding]:
    from tracer.identity.inventory import check_labels, first_names, name_sources
    from tracer.identity.names import Arrivals, NameService

    sources = name_sources(socket)
    arrivals = Arrivals()
    service = NameService(sources, arrivals.put)
    service.start()
    names = first_names(service, arrivals)
    failures, known = service.failures, service.pods
    service.stop()
    for source in sources:
        pods = known.get(source.name, 0)
        if source.name in failures:
            remedy = "ktrace goes on with the other sources; --cri-socket PATH chooses another"
            yield Finding("note", "names", f"{source.name}: {failures[source.name]}", remedy)
        elif in_pod and not pods:
            remedy = _in_pod.source_remedy(source)
            yield Finding("note", "names", f"{source.name}: 0 pods", remedy)
        else:
            yield Finding("ok", "names", f"{source.name}: {counted(pods, 'pod')}")
    try:
        check_labels(sources)
    except KtraceError as error:
        mends = _in_pod.SOCKET_LINES if in_pod else error.remedy
        yield Finding("note", "names", error.message, mends)
    if not names.pods:
        state: State = "problem" if in_pod else "note"
        remedy = "pods are shown by uid; --cri-socket PATH names the runtime's socket"
        remedy = _in_pod.SOCKET_LINES if in_pod else remedy
        yield Finding(state, "names", "no source knows any pod", remedy)


def _backends(lacks: Mapping[str, Sequence[Lack]]) -> Iterator[Finding]:
    """The lacks of one backend are a problem only if no other is usable."""
    state: State = "problem" if all(lacks.values()) else "note"
    for name, lacking in lacks.items():
        if not lacking:
            yield Finding("ok", name, "has what it needs")
        for lack in lacking:
            yield Finding(state, name, f"lacks {lack.what}", lack.remedy)


def _probes(usable: Sequence[str]) -> Iterator[Finding]:
    """Each probe by the usable backends. The lacks of the others are already reported."""
    if missing_capabilities():
        yield Finding("problem", "probes", "not tried without those privileges")
    elif not usable:
        yield Finding("problem", "probes", "no backend can run them, see above")
    else:
        for name in probes.names():
            yield from _probe(probes.get(name), usable)


def _probe(probe: probes.Probe, usable: Sequence[str]) -> Iterator[Finding]:
    """Really tries core: loads, attaches, detaches. With the others that would take seconds, so it
    only checks their needs."""
    told: list[Finding] = []
    for name in usable:
        told += _try(probe, name) if name == backends.NAMES[0] else _look(probe, name)
    works = any(finding.state == "ok" for finding in told)
    for finding in told:
        yield replace(finding, state="note") if works and finding.state == "problem" else finding


def _try(probe: probes.Probe, name: str) -> Iterator[Finding]:
    try:
        backend = backends.choose(name, [probe])
        backend.attach([probe], {})
    except KtraceError as error:
        yield Finding("problem", probe.name, f"{name}: {error.message}", error.remedy)
        return
    point = backend.attached[probe.name]
    backend.close()
    yield Finding("ok", probe.name, f"{name}: {point.name}")
    for lacking in point.cannot_tell:
        yield Finding("note", probe.name, f"{name} cannot tell here: {lacking}")


def _look(probe: probes.Probe, name: str) -> Iterator[Finding]:
    lacking = backends.lacking(name, probe)
    for lack in lacking:
        yield Finding("problem", probe.name, f"{name}: lacks {lack.what}", lack.remedy)
    if not lacking:
        yield Finding("ok", probe.name, f"{name}: may be tried")


def _print(finding: Finding) -> None:
    """Does not wrap a remedy, which may be a command to copy."""
    sign, colour = SIGNS[finding.state]
    found = wrapped(f"  {finding.what:<11} {escape(finding.found)}", 14, terminal_width())
    click.echo(click.style(sign, fg=colour) + found[1:], color=in_colour("auto"))
    if finding.remedy:
        click.echo(f"  {'':<11} → {escape(finding.remedy)}")


command = click.Command(
    "doctor",
    params=[
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            default="table",
            show_default=True,
            help="json is one object a line.",
        ),
        cri_socket_option(),
        node_name_option(),
    ],
    callback=run,
    help=summary(__doc__),
    epilog="\b\nExamples:\n  sudo ktrace doctor\n  ktrace doctor -o json | jq 'select(.remedy)'",
)
