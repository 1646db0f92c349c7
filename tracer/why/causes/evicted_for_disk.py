# SPDX-License-Identifier: Apache-2.0
"""The kubelet evicted the pod for want of disk, as it says: how much the container had written."""

from __future__ import annotations

import re

from tracer.model.units import size
from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, named
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# The kubelet's words for its signals and limits (pkg/kubelet/eviction), at any version.
_DISK = re.compile(r"ephemeral[- ]storage|inodes|DiskPressure|emptyDir|(?:node|image|container)fs")


def _judge(story: Story) -> Verdict | None:
    told = story.told
    if told is None:
        return None
    words = [event.message for event in told.events if event.reason == "Evicted"]
    if told.pod is not None and told.pod.reason == "Evicted":
        words.append(told.pod.message)
    if not any(_DISK.search(message) for message in words):
        return None
    found = story.of("disk_writer")
    if not found:
        return None
    last = max((entry.last.body for entry in found), key=lambda body: int(body["bytes"]))
    files = f" and made {last['inodes']} files" if last["inodes"] else ""
    return Verdict(
        "evicted_for_disk",
        f"evicted for want of disk: the container had written {size(last['bytes'])}{files} in"
        f" {last['seconds']} s on {named(last['file_system'])}",
        Certainty.LIKELY,
        tuple(found),
        "give what it writes a limit (ephemeral-storage, sizeLimit of an emptyDir) or a volume of"
        " its own; ktrace disk --all shows who writes to the node's disk",
        doubts=("that it was evicted for what it wrote is told by what Kubernetes says",),
    )


CAUSE = Cause(19, _judge, rests_on=RESTS_ON)
