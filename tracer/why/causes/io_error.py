# SPDX-License-Identifier: Apache-2.0
"""The disk failed, and the container's calls for it."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, "EIO")
    if not found:
        return None
    count = sum(entry.count for entry in found)
    last = max(found, key=lambda entry: entry.last_ns).last
    body = last.body
    what = body["call"] or "a call that waits for its writes (fsync)"
    path = f" of {body['path']}" if body["path"] else ""
    return Verdict(
        "io_error",
        f"{times(count, 'call')} failed with EIO, the last one {what}{path} by {who(last.about)}:"
        f" {named(body['file_system'])} could not be read or written",
        Certainty.CERTAIN,
        tuple(found),
        "what the program wrote may be lost. dmesg and ktrace disk --all name the device; look"
        " after the disk (smartctl -a, the cloud's status of the volume) before you trust its data",
        harm=count,
    )


CAUSE = Cause(22, _judge, rests_on=RESTS_ON)
