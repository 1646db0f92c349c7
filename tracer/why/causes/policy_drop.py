# SPDX-License-Identifier: Apache-2.0
"""A rule dropped packets: nftables, iptables, or a BPF program of the network plugin."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tracer.probes.drops import PacketBody
from tracer.why.cause import Cause
from tracer.why.common.drops import (
    RESTS_ON,
    By,
    by_rule,
    certainty,
    is_by_nftables,
    may_be_tracking,
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
_UNCLEAR = "the kernel says that netfilter dropped them, and not by whose rule"
_NOT_COUNTED = (
    "connection tracking's counters were not known yet: for want of room, or for another packet"
    " that was first, it drops some itself"
)
# A name that fills the record may be cut off.
_LONGEST = 30


def _judge(story: Story) -> Verdict | None:
    found = [*of_netfilter(story, By.RULE), *of_reason(story, *_PROGRAMS)]
    if not found:
        return None
    sure, doubts = certainty(found)
    by = list(dict.fromkeys(_by(entry) for entry in found))
    unclear = dict.fromkeys(doubt for entry in found if (doubt := _doubt(entry.event.body)))
    if any(may_be_tracking(entry) for entry in found):
        unclear[_NOT_COUNTED] = None
    if unclear:
        sure, doubts = Certainty.LIKELY, (*doubts, *unclear)
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


def _by(entry: Entry[PacketBody]) -> str:
    return _PROGRAMS.get(entry.body["reason"] or "") or by_rule(entry)


def _doubt(body: PacketBody) -> str | None:
    """What it rests on that this was a rule, and whose: nftables' drops alone have a function."""
    if body["reason"] != "netfilter_drop" or is_by_nftables(body):
        return None
    rule = body["rule"]
    if rule is None:
        return f"{_UNCLEAR}: mostly it is iptables"
    if rule["by"]:
        return f"{_UNCLEAR}: only {rule['by']} has any there"
    both = "nftables and iptables have" if rule["chains"] else "neither nftables nor iptables has"
    return f"{_UNCLEAR}: {both} any there"


def _remedy(found: Sequence[Entry[PacketBody]]) -> str:
    if all(entry.body["reason"] in _PROGRAMS for entry in found):
        return (
            "the network plugin's own tool names the policy (cilium monitor --type drop; bpftool"
            " net lists the programs). If the policy is meant, nothing is wrong"
        )
    commands = dict.fromkeys(_list(entry.event.body) for entry in found)
    rules = " and ".join(command for command in commands if command)
    return (
        "kubectl get networkpolicy -A for both pods' namespaces; in the network namespace in which"
        " they were dropped (ktrace drops -o wide), rules whose counters rise:"
        f" {rules or 'nft list ruleset, iptables-save -c'}. If the policy is meant, nothing is"
        " wrong"
    )


def _list(body: PacketBody) -> str | None:
    """The command that shows the rules; None if their names are not known for certain."""
    rule = body["rule"]
    if rule is None or rule["table"] is None or len(rule["table"]) > _LONGEST:
        return None
    table = shlex.quote(rule["table"])
    if rule["by"] == "nftables" and rule["family"]:
        return f"nft list table {rule['family']} {table}"
    command = "ip6tables" if ":" in (body["source"]["address"] or "") else "iptables"
    return f"{command} -t {table} -vnL"


CAUSE = Cause(12, _judge, rests_on=RESTS_ON)
