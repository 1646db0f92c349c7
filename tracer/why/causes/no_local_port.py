# SPDX-License-Identifier: Apache-2.0
"""The pod could not connect because none of its own ports was free towards that address."""

from __future__ import annotations

from tracer.probes.connects import NO_LOCAL_PORT
from tracer.why.cause import Cause
from tracer.why.common.connects import RESTS_ON, connects, to
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import total
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = connects(story, NO_LOCAL_PORT)
    if not found:
        return None
    process = max(found, key=lambda entry: entry.last_ns).last.about
    by = f" by {who(process)}" if process else ""
    return Verdict(
        "no_local_port",
        f"{times(total(found), 'attempt')}{by} to connect to {to(found)} failed before a packet was"
        " sent: no local port was free",
        Certainty.CERTAIN,
        tuple(found),
        "each port serves one connection to the same address and port, and stays taken for a"
        " minute after its end (TIME_WAIT; ss -tan in the pod's network namespace shows them). Keep"
        " connections and use them again (a pool, keep-alive); net.ipv4.ip_local_port_range, a"
        " sysctl that a pod may set, only bridges peaks",
        harm=total(found),
    )


CAUSE = Cause(18, _judge, rests_on=RESTS_ON)
