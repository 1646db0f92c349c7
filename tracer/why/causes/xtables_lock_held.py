# SPDX-License-Identifier: Apache-2.0
"""The pod's programs could not change iptables' rules: another process held the lock for them."""

from __future__ import annotations

from tracer.model.units import span
from tracer.probes.locks import LONG_NS
from tracer.why.cause import Cause
from tracer.why.common.locks import RESTS_ON, holder, locks
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import total
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    failed = locks(story, "refused", "given_up")
    slow = [e for e in locks(story, "acquired") if e.body["waited_ns"] >= LONG_NS]
    found = failed + slow
    if not found:
        return None
    last = max(found, key=lambda entry: entry.last_ns)
    began = locks(story, "waiting")
    held = max(failed or began, key=lambda entry: entry.last_ns, default=None)
    body = last.last.body
    parts = []
    if failed:
        parts.append(f"{times(total(failed), 'attempt')} to change iptables' rules failed")
    if slow:
        parts.append(f"{times(total(slow), 'change')} of iptables' rules had to wait")
    waited = f" (the last one waited for {span(body['waited_ns'])})" if body["waited_ns"] else ""
    by, since = "", ""
    if held is not None:
        by = f": {holder(held)} held {body['file']['path']}"
        for_ns = held.last.body["held_ns"]
        since = f", at last for {span(for_ns)}" if for_ns else ""
    return Verdict(
        "xtables_lock_held",
        f"{', and '.join(parts)}{waited}; the last by {who(last.last.about)}{by}{since}",
        Certainty.CERTAIN,
        (*found, *([held] if held is not None and held not in found else [])),
        "what does the holder do for so long? With many rules each change takes long"
        " (iptables-save | wc -l): kube-proxy's mode nftables or ipvs has fewer, and needs no such"
        " lock. iptables -w 60 waits longer before it gives up",
        harm=total(found),
    )


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
