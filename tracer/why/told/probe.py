# SPDX-License-Identifier: Apache-2.0
"""A probe failed: of a container that was stopped its liveness or startup probe, of one that runs
any."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracer.model.kubernetes import KubeEvent
from tracer.why.common.phrases import times
from tracer.why.statement import Hearing, Listener, Statement, last, quoted

SETTLES = frozenset(("probe_refused", "exec_probe"))
_FAILED = re.compile(r"^(Liveness|Readiness|Startup) probe (failed|errored): ?(.*)", re.DOTALL)
_STOPPED = re.compile(r"failed (liveness|startup) probe")


def _hear(hearing: Hearing) -> Statement | None:
    stop = hearing.stop
    if stop is None:
        if hearing.story.end is not None:
            return None
        failed = last(event for event, _ in _failures(hearing, hearing.story.until_ns()))
        return _told(hearing, failed, "") if failed else None
    # a kubelet says so once, and says failures less often if there are many
    killing = last(
        event
        for event in hearing.events("Killing", "Unhealthy")
        if _STOPPED.search(event.message) and hearing.near(event, stop.decided_ns)
    )
    failed = last(
        event
        for event, what in _failures(hearing, None if killing else stop.decided_ns)
        if what != "Readiness"
    )
    if failed is None:
        return Statement(quoted(killing.message), settles=SETTLES) if killing else None
    seen = [reason.seen for reason in hearing.reasons if reason.id in SETTLES and reason.seen]
    return _told(hearing, failed, seen[0] if seen else "")


def _failures(hearing: Hearing, boot_ns: int | None) -> Iterator[tuple[KubeEvent, str]]:
    for event in hearing.events("Unhealthy", "ProbeWarning"):
        found = _FAILED.match(event.message)
        if found and (boot_ns is None or hearing.near(event, boot_ns)):
            yield event, found[1]


def _told(hearing: Hearing, failed: KubeEvent, seen: str) -> Statement:
    found = _FAILED.match(failed.message)
    assert found is not None
    what = found[1].lower()
    of = _described(hearing, what)
    count = times(failed.count, "time")
    since = "" if hearing.since_start(failed) or failed.count == 1 else ", earlier lives included,"
    output = f" with {quoted(found[3])}" if found[3] else ""
    return Statement(
        f"the {what} probe{of} {found[2]} {count}{since}{output}",
        seen,
        SETTLES,
        _advice(failed.message) if hearing.stop else "",
    )


def _described(hearing: Hearing, what: str) -> str:
    container = hearing.story.place.container
    known = hearing.told.container(container.name if container else None)
    every = known.probes if known else ()
    return next((f" ({probe.how})" for probe in every if probe.what == what and probe.how), "")


def _advice(message: str) -> str:
    if "connection refused" in message:
        return (
            "compare the probe's port with what the program listens on (ss -ltn in the container),"
            " and give it time to start (startupProbe, initialDelaySeconds)"
        )
    if "context deadline exceeded" in message or "timed out" in message or "timeout" in message:
        return "see why it answers late, or raise the probe's timeoutSeconds"
    return ""


LISTENER = Listener(40, _hear)
