# SPDX-License-Identifier: Apache-2.0
"""The container holds deleted files open on a full file system, and with them their room."""

from __future__ import annotations

import shlex

from tracer.model.units import size
from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, files, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = [entry for entry in files(story) if entry.body["deleted"]]
    if not found:
        return None
    largest = max(found, key=lambda entry: entry.last.body["bytes"]).last
    body = largest.body
    total = sum(entry.last.body["bytes"] for entry in found)
    link = f"/proc/{body['process'].pid}/fd/{body['descriptor']}"
    return Verdict(
        "deleted_but_open",
        f"{who(largest.about)} holds {times(len(found), 'deleted file')} open, {size(total)} on"
        f" {named(body['file_system'])}, which is full; the largest was {body['path']}",
        Certainty.CERTAIN,
        tuple(found),
        "a deleted file keeps its room until its last holder closes it: let the program open its"
        " files anew (a signal, as after logrotate) or restart it; at once, on the node, if the"
        f" program can bear it: truncate -s 0 {shlex.quote(link)}",
    )


CAUSE = Cause(8, _judge, rests_on=RESTS_ON)
