# SPDX-License-Identifier: Apache-2.0
"""A mount is in use, and could not be unmounted: a volume of a pod that is to go."""

from __future__ import annotations

from tracer.probes.disk import named_holder
from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, "EBUSY")
    if not found:
        return None
    count = sum(entry.count for entry in found)
    # The search takes a moment, so that of many attempts only some are told with the holders.
    searched = [entry for entry in found if entry.last.body["holders"]]
    last = max(searched or found, key=lambda entry: entry.last_ns).last
    body = last.body
    holders = body["holders"] or []
    names = list(dict.fromkeys(named_holder(holder) for holder in holders))
    held = f"held by {', '.join(names[:3])}" if names else "by whom was not found"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    call = "unmount" if body["call"] == "umount2" else "remove"
    pids = " ".join(str(h["process"].pid) for h in holders if h["process"])
    return Verdict(
        "mount_busy",
        f"{who(last.about)} could not {call} {body['path']}: it is in use, {held}{more}"
        + (f"; {times(count, 'time')} in all" if count > 1 else ""),
        Certainty.CERTAIN,
        tuple(found),
        "let the holder close its files there, or end it"
        + (f" (on the node: ps -fp {pids})" if pids else "")
        + "; the kubelet tries again by itself. umount --lazy only hides that it is in use",
        harm=count,
    )


CAUSE = Cause(20, _judge, rests_on=RESTS_ON)
