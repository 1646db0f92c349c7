# SPDX-License-Identifier: Apache-2.0
"""Complaints of the kernel's network code."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

# net/ipv4/tcp_input.c; with the address since 6.1 (b5e74132dfbe), in lower case before 3.17
_SYN = re.compile(
    r"[Pp]ossible SYN flooding on port (?P<port>\[?[0-9a-fA-F.:]{0,64}\]?[:.])?"
    r"(?P<number>\d{1,5})\b"
    r"(?P<rest>[^\n]{0,60})"
)
_CONNTRACK = re.compile(r"(?:nf|ip)_conntrack[^\n]{0,40}?(?P<expected>expectation )?table full")
# net/core/dev.c, netdev_wait_allrefs()
_UNREGISTER = re.compile(
    r"unregister_netdevice: waiting for (?P<device>\S{1,64}) to become free"
    r"(?:\. Usage count = (?P<count>-?\d{1,10}))?"
)
_NEIGHBOURS = re.compile(
    r"(?P<which>arp_cache|ndisc_cache|neighbou?r)[^\n]{0,40}?table overflow", re.I
)
_ORPHANS = re.compile(r"(?:TCP: )?too many (?:of )?orphaned sockets", re.I)
_TIME_WAIT = re.compile(r"TCP: time wait bucket table overflow", re.I)
# Older kernels say "Out of socket memory" of either
_TCP_MEMORY = re.compile(r"TCP: out of memory|(?P<either>Out of socket memory)", re.I)
_MARTIAN = re.compile(
    r"martian (?:source|destination) (?P<to>[0-9a-f.:]{2,45}) from (?P<from>[0-9a-f.:]{2,45}),?"
    r" (?:on )?dev (?P<device>\S{1,64})"
)
# net/netfilter/ipvs/ip_vs_sched.c
_IPVS = re.compile(
    r"IPVS: [^\n]{1,64}: (?P<service>(?:TCP|UDP|SCTP|FWM) [0-9a-f.:\[\]]{1,64})[^\n]{0,32}?"
    r" - no destination available",
    re.I,
)
_CARRIER = re.compile(
    r"(?:(?P<device>[\w@.-]{1,32}) \([^)\n]{1,40}\)[^:\n]{0,40}|"
    r"NETDEV WATCHDOG: (?P<other>[\w.-]{1,32})"
    r"[^\n]{0,60}): transmit queue (?P<queue>\d{1,5}) timed out"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _SYN.search(text):
        return _syn_flooding(found)
    if found := _CONNTRACK.search(text):
        if found["expected"]:
            return ["the table of connections that conntrack expects (FTP, SIP) is full"]
        return [
            "the table of connections that conntrack keeps is full: packets of new connections are"
            " dropped, on the whole node, or in the one network namespace it is said of",
            "  fill and size: net.netfilter.nf_conntrack_count and nf_conntrack_max",
        ]
    if found := _UNREGISTER.search(text):
        count = f" ({found['count']} references)" if found["count"] else ""
        return [
            f"the network device {found['device']} cannot be removed: something holds it{count}",
            "a network namespace that ends hangs so; pods stay Terminating and new ones cannot be"
            " made meanwhile. If it does not end by itself, a fault of the kernel lost a reference",
        ]
    if found := _NEIGHBOURS.search(text):
        return [
            "the table of neighbours (ARP, NDP) is full: addresses that are new cannot be reached",
            "  its size: net.ipv4.neigh.default.gc_thresh3, and net.ipv6's",
        ]
    if _ORPHANS.search(text):
        return [
            "too many TCP sockets without a process: new ones are reset (tcp_max_orphans, or"
            " no memory for TCP)"
        ]
    if _TIME_WAIT.search(text):
        return [
            "more connections are in TIME_WAIT than net.ipv4.tcp_max_tw_buckets: the kernel forgets"
            " the others at once, and late packets of those may be answered with a reset"
        ]
    if found := _TCP_MEMORY.search(text):
        other = ", or there are too many sockets without a process: tcp_max_orphans"
        return [
            "TCP has used what memory it may have: net.ipv4.tcp_mem" + other * bool(found["either"])
        ]
    if found := _MARTIAN.search(text):
        return [
            f"a packet for {found['to']} with the sender {found['from']} came in on"
            f" {found['device']}, where routes say that it cannot come from; rp_filter drops such"
        ]
    if found := _IPVS.search(text):
        return [
            f"IPVS had nobody to send a connection for {found['service']} to: the Service has no"
            " ready endpoints, or the weights of all are 0"
        ]
    if found := _CARRIER.search(text):
        device = found["device"] or found["other"]
        return [f"the network card {device} has not sent for long: its driver resets it"]
    return None


def _syn_flooding(found: re.Match[str]) -> Answer:
    address = (found["port"] or "").rstrip(":.")
    where = f"port {found['number']}" + (f" of {address}" if address else "")
    lines = [f"the SYN queue of {where} was full: too many connections began at once"]
    if "cookies" in found["rest"].lower():
        lines.append("  cookies were sent instead, so connections still come about")
    elif "drop" in found["rest"].lower():
        lines.append("  requests were dropped: clients try again, or give up")
    lines.append(
        "an attack, or a listener that accepts too slowly: ktrace backlog tells whose it is"
    )
    return lines


KIND = Kind(
    _read,
    marks=(
        *("SYN flooding", "table full", "unregister_netdevice", "table overflow", "orphaned"),
        *("TCP: out of memory", "socket memory", "martian", "transmit queue"),
        "no destination available",
    ),
    rank=42,
)
