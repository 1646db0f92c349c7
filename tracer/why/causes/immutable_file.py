# SPDX-License-Identifier: Apache-2.0
"""A file that must not change could not be removed: a pod's directory stays."""

from __future__ import annotations

import shlex

from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = [entry for entry in failures(story, "EPERM") if entry.last.body["attribute"]]
    if not found:
        return None
    count = sum(entry.count for entry in found)
    last = max(found, key=lambda entry: entry.last_ns).last
    body = last.body
    file, attribute = body["attribute_of"] or "", body["attribute"]
    flag = "i" if attribute == "immutable" else "a"
    what = "it" if file == body["path"] else f"its directory {file}"
    return Verdict(
        "immutable_file",
        f"{who(last.about)} could not remove {body['path']} on {named(body['file_system'])}:"
        f" {what} is {attribute}" + (f"; {times(count, 'time')} in all" if count > 1 else ""),
        Certainty.CERTAIN,
        tuple(found),
        f"find out who made it so; then chattr -{flag} {shlex.quote(file)}; the kubelet then"
        " tries again by itself",
        harm=count,
    )


CAUSE = Cause(20, _judge, rests_on=RESTS_ON)
