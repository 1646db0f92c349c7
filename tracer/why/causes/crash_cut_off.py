# SPDX-License-Identifier: Apache-2.0
"""The container's first process crashed and was killed while it wrote its core dump. Its end only
shows SIGKILL, and requests to stop had no effect."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.faults import ABORT, dump_cut_off, reason
from tracer.why.common.phrases import where, who
from tracer.why.common.stopped import between
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = dump_cut_off(story)
    if found is None:
        return None
    fault, seen = found
    blow = story.blow() or seen
    assert story.end is not None
    verdict_id, how = _what(story, fault)
    killer = who(blow.event.by) if blow.event.by else "the kernel"
    return Verdict(
        verdict_id,
        f"{how}; its core dump was still being written {between(fault, blow)} later, when SIGKILL"
        f" from {killer} cut it off",
        Certainty.CERTAIN,
        tuple(dict.fromkeys((fault, seen, blow, story.end))),
        "a bug in the program or in a library: its log tells more; the program that takes core"
        " dumps (kernel.core_pattern) needs longer than it was given, or hangs: make it quicker,"
        " or dumps smaller (ulimit -c, coredump_filter)",
    )


def _what(story: Story, fault: Entry[SignalBody]) -> tuple[str, str]:
    init, name = who(story.init), fault.body["signal"]["name"]
    by_itself = story.is_init(fault.event.by)
    if name == ABORT and by_itself:
        return "aborted", f"gave up by itself: {init} called abort()"
    if by_itself or fault.body["origin"] == "kernel":
        found = story.locate(fault.event.about)
        place = f"; {found}" if found else ""
        return "crashed", f"crashed by its own fault: {init} got {name}{reason(fault)}{place}"
    origin = (fault.body["origin"] or "host").replace("-", "_")
    sender = f"{who(fault.event.by)} {where(fault)}"
    return f"killed_from_{origin}", f"killed: {name} from {sender} to {init}"


CAUSE = Cause(94, _judge)
