# SPDX-License-Identifier: Apache-2.0
"""Connections refused because nothing listens on the port: the health check that fails."""

from __future__ import annotations

from tracer.probes.resets import CLOSED_PORT
from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import times
from tracer.verdicts._resets import RESTS_ON, peers, ports, total


def _judge(story: Story) -> Verdict | None:
    found = [
        entry
        for entry in story.of("tcp_reset")
        if entry.body["direction"] == "sent" and entry.body["meaning"] == CLOSED_PORT
    ]
    if not found:
        return None
    return Verdict(
        "closed_port",
        f"nothing listens on {ports(found)}: {times(total(found), 'connection')} refused, from"
        f" {peers(found)}",
        Certainty.CERTAIN,
        tuple(found),
        "compare the port of the probe or service with what the program listens on"
        " (ss -ltn in the container); does it listen on 127.0.0.1 only, or has it not started yet?",
    )


CAUSE = Cause(17, _judge, rests_on=RESTS_ON)
