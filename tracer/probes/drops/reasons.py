# SPDX-License-Identifier: Apache-2.0
"""Why the kernel drops packets: its reasons in words, which of them are no loss, and what follows
where it gives none.

Reasons are the running kernel's names without their prefix, in small letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from tracer.kernel.bpf_object import shipped
from tracer.kernel.btf import kernel_enum

_PREFIX = "SKB_DROP_REASON_"
# Names in `enum skb_drop_reason` of what is no reason.
_NO_REASONS = ("SKB_NOT_DROPPED_YET", "SKB_CONSUMED", f"{_PREFIX}MAX", f"{_PREFIX}SUBSYS_MASK")
NOT_SPECIFIED, NETFILTER = "not_specified", "netfilter_drop"

# What nobody misses: packets for nobody here, doubles of what has come, connections that are over,
# and queues that end with their socket or device.
NO_LOSS = frozenset(
    (
        *("no_socket", "otherhost", "queue_purge", "socket_close", "socket_filter", "dup_frag"),
        *("unhandled_proto", "ipv6disabled", "unicast_in_l2_multicast", "local_mac"),
        *("mac_ieee_mac_control", "bridge_ingress_stp_state", "arp_pvlan_disable"),
        "no_tx_target",
        *("tap_filter", "tap_txfilter", "unix_disconnect", "unix_skip_oob", "packet_sock_error"),
        *("tcp_old_data", "tcp_old_sequence", "tcp_old_ack", "tcp_too_old_ack", "tcp_ofomerge"),
        *("tcp_reset", "tcp_close", "tcp_fastopen", "tcp_rfc7323_paws_ack", "tcp_abort_on_data"),
        *("tcp_flags", "tcp_invalid_sequence", "tcp_invalid_ack_sequence", "tcp_ack_unsent_data"),
        *("tcp_invalid_syn", "tcp_overwindow", "tcp_invalid_end_sequence", "tcp_rfc7323_tw_paws"),
    )
)

MEANINGS = {
    "no_socket": "nothing listens on the port",
    "otherhost": "for another host",
    "queue_purge": "its queue was emptied",
    "socket_rcvbuff": "receive buffer full",
    "proto_mem": "no memory left for the protocol",
    "socket_backlog": "socket's backlog full",
    "tcp_listen_overflow": "accept queue full",
    "netfilter_drop": "netfilter: a rule, or conntrack",
    "ip_rpfilter": "reverse path filter",
    "ip_local_source": "came with an address of this host as source",
    "ip_invalid_source": "impossible source address",
    "ip_invalid_dest": "impossible destination address",
    "ip_localnet": "loopback address from outside",
    "ip_innoroutes": "no route",
    "ip_outnoroutes": "no route",
    "ip_inaddrerrors": "not for this host, which does not forward",
    "pkt_too_big": "larger than the MTU",
    "pkt_too_small": "shorter than its header says",
    "neigh_failed": "neighbour does not answer",
    "neigh_createfail": "no room for a neighbour",
    "neigh_queuefull": "too many wait for the neighbour",
    "neigh_dead": "neighbour was removed",
    "ip_csum": "wrong checksum",
    "tcp_csum": "wrong checksum",
    "udp_csum": "wrong checksum",
    "icmp_csum": "wrong checksum",
    "skb_csum": "wrong checksum",
    "ip_inhdr": "malformed IP header",
    "ip_noproto": "no such protocol here",
    "xfrm_policy": "IPsec policy",
    "tc_ingress": "program or rule at tc, incoming",
    "tc_egress": "program or rule at tc, outgoing",
    "xdp": "XDP program",
    "bpf_cgroup_egress": "denied by a BPF program of the cgroup",
    "security_hook": "denied by a security module",
    "qdisc_drop": "queueing discipline",
    "qdisc_overlimit": "queueing discipline full",
    "qdisc_congested": "queueing discipline congested",
    "cpu_backlog": "the CPU's backlog full",
    "full_ring": "device's ring full",
    "dev_ready": "device is down",
    "nomem": "out of memory",
    "frag_reasm_timeout": "fragments missing",
    "ip_ttl": "too many hops",
    "tcp_zerowindow": "receive window closed",
    "tcp_ofo_queue_prune": "out-of-order queue pruned",
    "tcp_rfc7323_paws": "older than what has come",
    "tcp_md5notfound": "TCP MD5 signature missing",
    "tcp_md5unexpected": "TCP MD5 signature unexpected",
    "tcp_md5failure": "TCP MD5 signature wrong",
}

# The reason of a packet that was dropped in this function, where the kernel gives none. In those
# without a word, its size tells whether it was too large.
FUNCTIONS: dict[str, str | None] = {
    "nf_hook_slow": "netfilter_drop",
    "ip_error": "ip_innoroutes",
    "ip6_pkt_drop": "ip_innoroutes",
    "arp_error_report": "neigh_failed",
    "ndisc_error_report": "neigh_failed",
    "udp_queue_rcv_one_skb": "socket_rcvbuff",
    "udpv6_queue_rcv_one_skb": "socket_rcvbuff",
    "__udp_queue_rcv_skb": "socket_rcvbuff",
    "__udpv6_queue_rcv_skb": "socket_rcvbuff",
    "ip_fragment": "pkt_too_big",
    "ip_do_fragment": "pkt_too_big",
    "ip_forward": None,
    "ip6_forward": None,
}
# A kernel that has this reason gives one at all of these places.
_NEWEST = f"{_PREFIX}IP_LOCAL_SOURCE"

# ICMP's codes of type 3 (RFC 792, RFC 1812) in words, and the reason that each stands for if the
# kernel gives none. For a neighbour that does not answer it gives one.
UNREACHABLE = {
    0: ("network unreachable", "ip_innoroutes"),
    1: ("host unreachable", "ip_innoroutes"),
    2: ("protocol unreachable", "ip_noproto"),
    3: ("port unreachable", None),
    4: ("fragmentation needed", "pkt_too_big"),
    9: ("network prohibited", "netfilter_drop"),
    10: ("host prohibited", "netfilter_drop"),
    13: ("prohibited", "netfilter_drop"),
}

KALLSYMS, MAX_SYMBOLS = "/proc/kallsyms", 64 << 20


@lru_cache(maxsize=1024)
def word(name: bytes) -> str | None:
    """The reason for a record's name; None if there is none, or one that says nothing."""
    found = name.split(b"\0", 1)[0].decode("ascii", "replace").lower()
    return None if found in ("", NOT_SPECIFIED) else found


def meaning(reason: str | None) -> str | None:
    if reason is None:
        return None
    return MEANINGS.get(reason) or reason.replace("_", " ")


def of_martian(source: str, own: bool) -> str:
    """Why the kernel complained about a source and dropped the packet without a reason. `own` says
    that it is an address of this node."""
    address = ip_address(source)
    if address.is_loopback:
        return "ip_localnet"
    if address.is_multicast or source.startswith(("0.", "255.")):
        return "ip_invalid_source"
    return "ip_local_source" if own else "ip_rpfilter"


def of_place(function: str, size: int, mtu: int) -> str | None:
    reason = FUNCTIONS.get(function)
    if reason is None and function in FUNCTIONS and mtu and size > mtu:
        return "pkt_too_big"
    return reason


def settings(every: bool) -> dict[str, int]:
    """The tables of probes/drops.bpf.c for the running kernel. With `every` no reason is left
    out."""
    names = kernel_enum("skb_drop_reason")
    wanted, words = tables(names, every)
    places = b"" if _NEWEST in names else place_table(_kallsyms())
    return {
        "kt_drop_wanted": int.from_bytes(wanted, "little"),
        "kt_drop_names": int.from_bytes(words, "little"),
        "kt_drop_places": int.from_bytes(places, "little"),
    }


def tables(names: Mapping[str, int], every: bool) -> tuple[bytes, bytes]:
    """`kt_drop_wanted` and `kt_drop_names`: what is done with a reason, and its name."""
    described = shipped("drops")
    done = described.numbers("drop_wanted")
    room = described.schemas["packet_drop"].room("reason")
    wanted = bytearray(described.settings["kt_drop_wanted"][1])
    words = bytearray(len(wanted) * room)
    for name, number in names.items():
        reason = name.removeprefix(_PREFIX).lower()
        if name in _NO_REASONS or not 0 <= number < len(wanted) or len(reason) >= room:
            continue
        words[number * room : number * room + len(reason)] = reason.upper().encode()
        what = "KT_DROP_TELL_HOOK" if reason == NETFILTER else "KT_DROP_TELL"
        if reason == NOT_SPECIFIED and not every:
            what = "KT_DROP_ASK"
        elif reason in NO_LOSS and not every:
            what = "KT_DROP_LEAVE_OUT"
        wanted[number] = done[what]
    return bytes(wanted), bytes(words)


def place_table(kallsyms: bytes) -> bytes:
    """`kt_drop_places`: the code of `FUNCTIONS`. A function ends where the next symbol begins; its
    name may have a suffix of the compiler's. A part that is seldom executed lies elsewhere."""
    described = shipped("drops")
    place = described.layout("kt_drop_place")
    functions = "|".join(map(re.escape, FUNCTIONS)).encode()
    pattern = rb"^([0-9a-f]+) [tT] (" + functions + rb")(?:\.[\w.]+)?\n(?=([0-9a-f]+) )"
    rows = [
        place.plain(begin=int(begin, 16), end=int(end, 16), name=name)
        for begin, name, end in re.findall(pattern, kallsyms, re.MULTILINE)
        if int(begin, 16)  # all are 0 without CAP_SYSLOG
    ]
    return b"".join(rows)[: described.settings["kt_drop_places"][1]]


def _kallsyms() -> bytes:
    try:
        with open(KALLSYMS, "rb") as file:
            return file.read(MAX_SYMBOLS)
    except OSError:
        return b""
