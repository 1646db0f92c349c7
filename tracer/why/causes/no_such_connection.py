# SPDX-License-Identifier: Apache-2.0
"""Packets came for connections that do not exist here: they had ended, or never were the pod's."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.causes.reply_not_translated import is_untranslated
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, evidence, here, parts, peers, total
from tracer.why.entry import Entry
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

BEGINNING_NS = 5_000_000_000

_TRY_AGAIN = "clients must try again on a new connection"


def _judge(story: Story) -> Verdict | None:
    every = parts(story, Sort.NO_CONNECTION, Sort.REPLY)
    found = [part for part in every if not is_untranslated(part)]
    if not found:
        return None
    entries = evidence(found)
    first = entries[0]
    what = f"packets of {peers(found)} for {times(total(found), 'connection')}"
    sure = Certainty.LIKELY
    doubts: tuple[str, ...] = ("which connection it was is told by the order of events",)
    if (ended := _end_before(story, first)) is not None:
        id_, why = (
            "connection_of_earlier_life",
            (f"that its earlier life had: the container had ended {span(ended)} before"),
        )
        remedy = f"find out why it ended; {_TRY_AGAIN}"
    elif (age := _age_at(story, first)) is not None:
        id_, why = (
            "connection_of_former_pod",
            (f"that it never had: the pod was {span(age)} old, and its address had been another's"),
        )
        remedy = f"{_TRY_AGAIN}, and ask for the service's name or address, not a pod's"
    else:
        sure, doubts = Certainty.CERTAIN, ()
        id_, why = "no_such_connection", "that do not exist here, or no longer"
        remedy = (
            "one of these: the connection had ended here already, or been reset; the program was"
            " started anew; the address was another pod's before; or the packet's address was not"
            f" translated back (conntrack). {_TRY_AGAIN.capitalize()}"
        )
    return Verdict(
        id_,
        f"{what} {why}; {here(story)} answered with resets",
        sure,
        entries,
        remedy,
        doubts,
        harm=total(found),
    )


def _end_before(story: Story, entry: Entry) -> int | None:
    """How long before it the container's previous life had ended."""
    ends = [end for end in story.ends if end <= entry.boot_ns]
    return entry.boot_ns - max(ends) if ends else None


def _age_at(story: Story, entry: Entry) -> int | None:
    """The pod's age, if it was made while tracing. Older pods are all found at the beginning."""
    began = story.place.began
    if began is None or not story.began_ns + BEGINNING_NS < began <= entry.boot_ns:
        return None
    return entry.boot_ns - began


CAUSE = Cause(11, _judge, rests_on=RESTS_ON)
