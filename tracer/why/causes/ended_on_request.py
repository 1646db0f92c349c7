# SPDX-License-Identifier: Apache-2.0
"""The container's first process ended because a process other than the runtime asked it to:
`kubectl exec … kill 1`, `nginx -s quit`, `pg_ctl stop`, Ctrl-C or a person on the node."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import lost_child
from tracer.why.common.phrases import ending, who
from tracer.why.common.senders import doubts_of, is_executed_sender, sender_of
from tracer.why.common.stopped import asks_to_end, between
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# How long a server may take to finish its work. After a longer time the request need not be the
# reason.
IN_TIME_NS = 60_000_000_000


def _judge(story: Story) -> Verdict | None:
    asked = _request(story)
    if asked is None or story.end is None or lost_child(story) is not None:
        return None
    blow = story.blow()
    number = asked.body["signal"]["number"]
    if blow is not None:  # programs often clean up and then end by the signal itself
        again = blow.body["signal"]["number"] == number and story.is_init(blow.event.by)
        if not again:
            return None
    name = asked.body["signal"]["name"]
    return Verdict(
        "ended_on_request",
        f"asked to end: {name} from {_sender(asked)}; {who(story.init)} ended"
        f" {between(asked, story.end)} later, with {ending(story.end.body)}",
        Certainty.LIKELY,
        tuple(dict.fromkeys((asked, *([blow] if blow else []), story.end))),
        _remedy(asked),
        (f"that {name} made it end is told by the order of events", *doubts_of(asked)),
    )


def _request(story: Story) -> Entry[SignalBody] | None:
    """The last request, excluding the runtime's (stops have their own verdicts) and the process's
    own."""
    end = story.end
    if end is None:
        return None
    found = [
        entry
        for entry in story.signals()
        if asks_to_end(entry)
        and entry.body["origin"] not in ("runtime", "kubelet")
        and not story.is_init(entry.event.by)
        and end.boot_ns - entry.last_ns <= IN_TIME_NS
    ]
    return max(found, key=lambda entry: entry.last_ns, default=None)


def _sender(asked: Entry[SignalBody]) -> str:
    if asked.event.by is None and asked.body["origin"] == "kernel":
        return "the kernel, as of a terminal's Ctrl-C or Ctrl-\\"
    return sender_of(asked)


def _remedy(asked: Entry[SignalBody]) -> str:
    if is_executed_sender(asked):
        return (
            "look who executed that in the container: a person, a probe or a hook; for Kubernetes"
            " the container has ended by itself and is started again if its restartPolicy says so"
        )
    return (
        "look at the sender and at who started it; for Kubernetes the container has ended by itself"
        " and is started again if its restartPolicy says so"
    )


CAUSE = Cause(59, _judge)
