# SPDX-License-Identifier: Apache-2.0
"""`ktrace doctor`: what this node can tell, what it cannot, and what mends that."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
import orjson

from tracer import probes
from tracer.cli._options import cri_socket as cri_socket_option
from tracer.errors import CannotOnThisKernel, KtraceError
from tracer.views.escape import escape

SIGNS = {"ok": ("✔", "green"), "note": ("·", "yellow"), "problem": ("✘", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """A `note` limits what can be told; a `problem` stops something from working."""

    state: Literal["ok", "note", "problem"]
    what: str
    found: str
    remedy: str | None = None


def run(output: str, cri_socket: str | None) -> None:
    problems = 0
    for finding in findings(cri_socket):
        problems += finding.state == "problem"
        if output == "json":
            click.echo(orjson.dumps(asdict(finding)))
        else:
            _print(finding)
    if problems:
        raise SystemExit(1)


def findings(cri_socket: str | None) -> Iterator[Finding]:
    yield Finding("ok", "kernel", f"{platform.release()} {platform.machine()}")
    yield _privileges()
    yield _btf()
    yield _libbpf()
    yield _tracefs()
    yield _cgroups()
    yield from _runtimes(cri_socket)
    for name in probes.names():
        yield from _probe(probes.get(name))


def _privileges() -> Finding:
    from tracer.backends.core import missing_capabilities

    missing = missing_capabilities()
    if missing:
        remedy = "sudo ktrace …; in a pod: securityContext.privileged: true"
        return Finding("problem", "privileges", f"without {', '.join(missing)}", remedy)
    return Finding("ok", "privileges", "enough to load and attach BPF programs")


def _btf() -> Finding:
    path = Path("/sys/kernel/btf/vmlinux")
    if path.exists():
        return Finding("ok", "BTF", f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF=y (every current distribution's has it)"
    return Finding("problem", "BTF", f"{path} is missing", remedy)


def _libbpf() -> Finding:
    from tracer.backends.libbpf import Libbpf

    try:
        library = Libbpf()
    except CannotOnThisKernel as error:
        return Finding("problem", "libbpf", error.message, error.remedy)
    return Finding("ok", "libbpf", library.version())


def _tracefs() -> Finding:
    for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.exists(f"{path}/events"):
            return Finding("ok", "tracefs", path)
    remedy = "not needed by the probes below; mount -t tracefs nodev /sys/kernel/tracing"
    return Finding("note", "tracefs", "not mounted", remedy)


def _cgroups() -> Finding:
    from tracer.identity.tree import container_cgroups, hierarchies

    mounted = hierarchies()
    if not mounted:
        return Finding(
            "problem",
            "cgroups",
            "no cgroup filesystem is mounted that has a memory controller or is of version 2",
            "mount -t cgroup2 none /sys/fs/cgroup; in a pod: mount the host's /sys/fs/cgroup",
        )
    described = " and ".join(f"version {h.version} at {h.mount}" for h in mounted)
    cgroups = container_cgroups()
    pods = {c.identity.pod_uid for c in cgroups if c.identity.pod_uid}
    containers = {c.identity.container_id for c in cgroups if c.identity.container_id}
    return Finding("ok", "cgroups", f"{described}; {len(pods)} pods, {len(containers)} containers")


def _runtimes(socket: str | None) -> Iterator[Finding]:
    import queue

    from tracer.identity.inventory import first_names, name_sources
    from tracer.identity.model import Names
    from tracer.identity.names import NameService

    sources = name_sources(socket)
    arrivals: queue.SimpleQueue[Names] = queue.SimpleQueue()
    service = NameService(sources, arrivals.put)
    service.start()
    names = first_names(service, arrivals)
    failures = service.failures
    service.stop()
    for source in sources:
        if source.name in failures:
            remedy = "ktrace goes on with the other sources; --cri-socket PATH chooses another"
            yield Finding("note", "names", f"{source.name}: {failures[source.name]}", remedy)
        else:
            yield Finding("ok", "names", source.name)
    if not names.pods:
        remedy = "pods are shown by uid; --cri-socket PATH names the runtime's socket"
        yield Finding("note", "names", "no source knows any pod", remedy)


def _probe(probe: probes.Probe) -> Iterator[Finding]:
    """Tries for real: loads, attaches, detaches."""
    from tracer.backends.core import CoreBackend

    try:
        backend = CoreBackend()
        backend.attach([probe], {})
    except KtraceError as error:
        yield Finding("problem", probe.name, error.message, error.remedy)
        return
    point = backend.attached[probe.name]
    backend.close()
    yield Finding("ok", probe.name, f"core: {point.name}")
    for lacking in point.cannot_tell:
        yield Finding("note", probe.name, f"cannot tell here: {lacking}")


def _print(finding: Finding) -> None:
    sign, colour = SIGNS[finding.state]
    click.echo(f"{click.style(sign, fg=colour)} {finding.what:<11} {escape(finding.found)}")
    if finding.remedy:
        click.echo(f"  {'':<11} → {escape(finding.remedy)}")


command = click.Command(
    "doctor",
    params=[
        click.Option(["-o", "--output"], type=click.Choice(["table", "json"]), default="table"),
        cri_socket_option(),
    ],
    callback=run,
    help="Check what this node can tell, what it cannot, and what mends that.",
    epilog="\b\nExamples:\n  sudo ktrace doctor\n  ktrace doctor -o json | jq 'select(.remedy)'",
)
