# SPDX-License-Identifier: Apache-2.0
"""A rule dropped packets: nftables, iptables, or a BPF program of the network plugin."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.probes.drops import PacketBody
from tracer.why.cause import Cause
from tracer.why.common.drops import (
    NFTABLES,
    RESTS_ON,
    By,
    certainty,
    of_netfilter,
    of_reason,
    packets,
    total,
)
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_PROGRAMS = {
    "tc_ingress": "a program or rule at tc of the device (incoming)",
    "tc_egress": "a program or rule at tc of the device (outgoing)",
    "xdp": "an XDP program of the device",
    "bpf_cgroup_egress": "a BPF program of the pod's cgroup",
}
# The chains through which a packet of a direction goes.
_HOOKS = {"in": "PREROUTING or INPUT", "forward": "FORWARD", "out": "OUTPUT or POSTROUTING"}
_BY_HOOK = "which of netfilter's users dropped them, the kernel does not say: mostly iptables"


def _judge(story: Story) -> Verdict | None:
    found = [*of_netfilter(story, By.RULE), *of_reason(story, *_PROGRAMS)]
    if not found:
        return None
    sure, doubts = certainty(found)
    by = list(dict.fromkeys(_by(entry.event.body) for entry in found))
    if any(_is_unclear(entry.event.body) for entry in found):
        sure, doubts = Certainty.LIKELY, (*doubts, _BY_HOOK)
    answered = next((word for entry in found if (word := entry.body["answered"])), None)
    rejected = f", and answered as {answered}" if answered else ""
    return Verdict(
        "policy_drop",
        f"{packets(story, found)} dropped by {' and '.join(by)}{rejected}",
        sure,
        tuple(found),
        _remedy(found),
        doubts,
        harm=total(found),
    )


def _by(body: PacketBody) -> str:
    if body["reason"] in _PROGRAMS:
        return _PROGRAMS[body["reason"] or ""]
    hook = _HOOKS.get(body["direction"] or "", "")
    return ("a rule of nftables" if body["function"] == NFTABLES else "a rule of iptables") + (
        f" ({hook})" if hook else ""
    )


def _is_unclear(body: PacketBody) -> bool:
    return body["reason"] == "netfilter_drop" and body["function"] != NFTABLES


def _remedy(found: Sequence[Entry[PacketBody]]) -> str:
    if all(entry.body["reason"] in _PROGRAMS for entry in found):
        return (
            "the network plugin's own tool names the policy (cilium monitor --type drop; bpftool"
            " net lists the programs). If the policy is meant, nothing is wrong"
        )
    return (
        "kubectl get networkpolicy -A for both pods' namespaces; on the node, rules whose counters"
        " rise: nft list ruleset, iptables-save -c, and in the pod's network namespace if they were"
        " dropped there. If the policy is meant, nothing is wrong"
    )


CAUSE = Cause(12, _judge, rests_on=RESTS_ON)
