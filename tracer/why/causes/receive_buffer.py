# SPDX-License-Identifier: Apache-2.0
"""Packets were dropped because the program did not read them in time: its receive buffer was
full."""

from __future__ import annotations

from tracer.model.units import size
from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, certainty, of_reason, packets, total
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_reason(story, "socket_rcvbuff", "proto_mem")
    if not found:
        return None
    sure, doubts = certainty(found)
    buffers = [buffer for entry in found if (buffer := entry.last.body["buffer"])]
    of = f" of {size(max(buffer['limit'] for buffer in buffers))}" if buffers else ""
    memory = all(entry.body["reason"] == "proto_mem" for entry in found)
    why = "no memory was left for the protocol" if memory else f"the receive buffer{of} was full"
    remedy = "compare /proc/net/sockstat (mem) with net.ipv4.udp_mem and net.ipv4.tcp_mem"
    if not memory:
        remedy = (
            "the program reads too slowly, or stands still: look at what it does meanwhile; a"
            " larger buffer (SO_RCVBUF, up to net.core.rmem_max) only bridges peaks. ss -uamn in"
            " the pod shows the socket's drops (d)"
        )
    return Verdict(
        "receive_buffer",
        f"{packets(story, found)} dropped: {why}",
        sure,
        tuple(found),
        remedy,
        doubts,
        harm=total(found),
    )


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
