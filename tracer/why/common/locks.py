# SPDX-License-Identifier: Apache-2.0
"""Locks that the container's processes did not get: picking them."""

from __future__ import annotations

from tracer.probes.columns import pod_name
from tracer.probes.locks import LockBody
from tracer.why.common.phrases import who
from tracer.why.entry import Entry
from tracer.why.story import Story

RESTS_ON = frozenset(("locks",))
_NAME = "xtables.lock"


def locks(story: Story, *outcomes: str) -> list[Entry[LockBody]]:
    """Those of iptables' lock."""
    found: list[Entry[LockBody]] = story.of("file_lock")
    return [
        entry
        for entry in found
        if entry.body["outcome"] in outcomes
        and (entry.body["file"]["path"] or "").rpartition("/")[2] == _NAME
    ]


def holder(entry: Entry[LockBody]) -> str:
    """`iptables[4711] (/usr/sbin/xtables-legacy-multi) in pod kube-system/kube-proxy-x7`"""
    event = entry.last
    pod = pod_name(event.by_place or (event.by.place if event.by else None))
    return who(event.by) + (f" in pod {pod}" if pod else "")
