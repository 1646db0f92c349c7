/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sockets and packets: the two ends of a connection, their network namespace and cgroup.
 *
 * Pointers come in as plain numbers (see kt_argument): some kernels' verifiers believe that a tracepoint
 * never passes NULL, and drop the test for it, but it may.
 */
#ifndef KT_SOCKET_H
#define KT_SOCKET_H

#include "ktrace.h"
#include "network.h"
#ifdef KT_BCC
#include <linux/tcp.h>
#include <net/ip6_fib.h>
#include <net/request_sock.h>
#include <net/route.h>
#include <net/sock.h>
#endif

typedef u16 kt_port;     /* in the host's byte order */
typedef u8 kt_tcp_state; /* enum below; 0 = no socket */

struct kt_endpoint {
	kt_address address;
	kt_port port;
};

/* Both ends of a connection, as seen from this node. `family` 0: both are unknown. */
struct kt_flow {
	struct kt_endpoint local;
	struct kt_endpoint remote;
	u16 family;
	u16 unused;
};

enum {
	KT_AF_INET = 2,
	KT_AF_INET6 = 10,
};

/* include/net/tcp_states.h */
enum {
	KT_TCP_ESTABLISHED = 1,
	KT_TCP_SYN_SENT = 2,
	KT_TCP_SYN_RECV = 3,
	KT_TCP_TIME_WAIT = 6,
	KT_TCP_CLOSE = 7,
	KT_TCP_CLOSE_WAIT = 8,
	KT_TCP_LISTEN = 10,
	KT_TCP_NEW_SYN_RECV = 12,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport; /* in the network's order */
	u16 skc_num;   /* in the host's */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr {
		union {
			u8 u6_addr8[16];
		} in6_u;
	} skc_v6_daddr, skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sk_buff_head {
	u32 qlen;
};

struct socket;

struct sock {
	struct sock_common __sk_common;
	struct {
		int len;
	} sk_backlog;
	struct sk_buff_head sk_receive_queue;
	int sk_rcvbuf;
	int sk_sndbuf;
	struct socket *sk_socket;
	u8 sk_shutdown;
	u32 sk_ack_backlog;
	u32 sk_max_ack_backlog;
	unsigned long sk_lingertime;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	u16 inet_sport; /* in the network's order */
};

struct request_sock {
	struct sock *rsk_listener;
};

struct inet_connection_sock {
	struct {
		u32 lrcvtime;
	} icsk_ack;
};

struct tcp_sock {
	u32 copied_seq;
	u32 rcv_nxt;
	u32 snd_una;
	u32 write_seq;
	u32 lsndtime;
	u32 rcv_tstamp;
	u64 bytes_sent;
	u64 bytes_received;
};

struct inet_timewait_sock {
	u32 tw_entry_stamp;
};

struct dst_entry {
	struct net_device *dev;
};

struct rtable {
	u8 rt_type;
};

struct rt6_info {
	u32 rt6i_flags;
};

struct sk_buff {
	struct net_device *dev;
	unsigned long _skb_refdst;
	u16 protocol;
	u16 transport_header;
	u16 network_header;
	unsigned char *head;
};

/* sock_cgroup_data.cgroup; before 8520e224f547 ("bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed
 * mode") a pointer and version 1's net_cls and net_prio shared one number, told apart by bit 0. */
struct sock_cgroup_data___val {
	u64 val;
};

struct sock___cgroup_val {
	struct sock_cgroup_data___val sk_cgrp_data;
};

enum sock_flags {
	SOCK_DEAD = 0x7f, /* the real numbers come from the running kernel */
	SOCK_DONE = 0x7e,
	SOCK_LINGER = 0x7d,
};

#pragma clang attribute pop

/* Headers as they are in every packet. */
struct kt_ipv4_header {
	u8 version_and_length;
	u8 between[11];
	u32 source;
	u32 destination;
};

struct kt_ipv6_header {
	u8 version;
	u8 between[7];
	kt_address source;
	kt_address destination;
};

struct kt_tcp_header {
	u16 source;
	u16 destination;
	u32 sequence;
	u32 acknowledged;
	u8 offset;
	u8 flags;
};

enum {
	KT_TH_SYN = 0x02,
	KT_TH_RST = 0x04,
	KT_TH_ACK = 0x10,
};

/* A request or a timewait socket has little more than its `sock_common`. */
static __always_inline u8 kt_state_of(struct sock *sk)
{
	return sk ? BPF_CORE_READ(sk, __sk_common.skc_state) : 0;
}

static __always_inline bool kt_is_full(struct sock *sk)
{
	u8 state = kt_state_of(sk);

	return state && state != KT_TCP_TIME_WAIT && state != KT_TCP_NEW_SYN_RECV;
}

static __always_inline void kt_put_ipv4(struct kt_endpoint *end, u32 address)
{
	__builtin_memset(end->address, 0, 10);
	end->address[10] = end->address[11] = 0xff;
	__builtin_memcpy(end->address + 12, &address, 4);
}

static __always_inline void kt_clear_flow(struct kt_flow *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
}

/* The two ends of any socket, including mini sockets. A listening socket has no remote end: port 0. A socket
 * that is being closed has released its port already, but inet_sport still has it. */
static __always_inline void kt_flow_of_socket(struct kt_flow *flow, struct sock *sk)
{
	struct sock_common *common = (void *)sk;

	kt_clear_flow(flow);
	if (!sk)
		return;
	flow->family = BPF_CORE_READ(common, skc_family);
	flow->local.port = BPF_CORE_READ(common, skc_num);
	if (!flow->local.port && kt_is_full(sk))
		flow->local.port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	flow->remote.port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
	if (flow->family == KT_AF_INET) {
		kt_put_ipv4(&flow->local, BPF_CORE_READ(common, skc_rcv_saddr));
		kt_put_ipv4(&flow->remote, BPF_CORE_READ(common, skc_daddr));
	} else if (flow->family == KT_AF_INET6) {
		BPF_CORE_READ_INTO(&flow->local.address, common, skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&flow->remote.address, common, skc_v6_daddr.in6_u.u6_addr8);
	} else {
		flow->family = 0;
	}
}

/* The TCP header of a received packet; false if there is none. */
static __always_inline bool kt_tcp_header_of(struct kt_tcp_header *tcp, struct sk_buff *skb)
{
	u16 at = BPF_CORE_READ(skb, transport_header);

	if (at == (u16)~0 || !at)
		return false;
	return !bpf_probe_read_kernel(tcp, sizeof(*tcp), BPF_CORE_READ(skb, head) + at);
}

/* The two ends of a received TCP packet, whose destination is local. For any other packet false, and both
 * ends unknown. */
static __always_inline bool kt_flow_of_packet(struct kt_flow *flow, struct sk_buff *skb)
{
	struct kt_ipv6_header ipv6 = {};
	struct kt_ipv4_header ipv4;
	struct kt_tcp_header tcp;
	unsigned char *network;
	u8 version;

	kt_clear_flow(flow);
	if (!skb || !kt_tcp_header_of(&tcp, skb))
		return false;
	network = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	if (bpf_probe_read_kernel(&ipv6, sizeof(ipv6), network))
		return false;
	version = ipv6.version >> 4;
	if (version == 4) {
		__builtin_memcpy(&ipv4, &ipv6, sizeof(ipv4));
		kt_put_ipv4(&flow->local, ipv4.destination);
		kt_put_ipv4(&flow->remote, ipv4.source);
		flow->family = KT_AF_INET;
	} else if (version == 6) {
		__builtin_memcpy(flow->local.address, ipv6.destination, sizeof(kt_address));
		__builtin_memcpy(flow->remote.address, ipv6.source, sizeof(kt_address));
		flow->family = KT_AF_INET6;
	} else {
		return false;
	}
	flow->local.port = bpf_ntohs(tcp.destination);
	flow->remote.port = bpf_ntohs(tcp.source);
	return true;
}

static __always_inline struct dst_entry *kt_route_of_packet(struct sk_buff *skb)
{
	/* include/linux/skbuff.h: two flags */
	return (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~3UL);
}

static __always_inline struct net *kt_net_of_socket(struct sock *sk)
{
	return sk ? BPF_CORE_READ(sk, __sk_common.skc_net.net) : NULL;
}

/* The network namespace of a received packet, by its route, as the kernel itself finds it. */
static __always_inline struct net *kt_net_of_packet(struct sk_buff *skb)
{
	struct dst_entry *route = skb ? kt_route_of_packet(skb) : NULL;
	struct net_device *dev = route ? BPF_CORE_READ(route, dev) : NULL;

	if (!dev && skb)
		dev = BPF_CORE_READ(skb, dev);
	return dev ? BPF_CORE_READ(dev, nd_net.net) : NULL;
}

KT_PRESENT(socket_cgroup, "linux/cgroup-defs.h",
	   "struct sock_cgroup_data { struct cgroup *cgroup;");

/* The version 2 cgroup in which a socket was made. NULL for a mini socket, and if version 1's net_cls or
 * net_prio has taken the pointer's place. If version 1's memory controller identifies containers, this cgroup
 * may be the root, see kt_tells_container. */
static __always_inline struct cgroup *kt_cgroup_of_socket(struct sock *sk)
{
	u64 value;

	if (!kt_is_full(sk))
		return NULL;
	value = KT_CHOOSE(socket_cgroup, bpf_core_field_exists(sk->sk_cgrp_data.cgroup),
			  (u64)BPF_CORE_READ(sk, sk_cgrp_data.cgroup),
			  BPF_CORE_READ((struct sock___cgroup_val *)sk, sk_cgrp_data.val));
	/* a pointer is even; in the older form bit 1 is a flag too */
	return value & 1 ? NULL : (struct cgroup *)(value & ~2UL);
}

/* Whether a socket's cgroup identifies its owner. On a node where containers have no cgroup of version 2, a
 * socket of the root may belong to any of them. */
static __always_inline bool kt_tells_container(struct cgroup *cgroup)
{
	return cgroup && BPF_CORE_READ(cgroup, level);
}

/* Whether an event at a socket or in a network namespace is wanted. If no cgroup identifies the owner, the
 * event passes, and user space decides by the namespace. */
static __always_inline bool kt_wanted_at(struct cgroup *cgroup)
{
	return kt_wanted_in(kt_tells_container(cgroup) ? cgroup : NULL);
}

/* The cgroup id for a record, described first, if the cgroup identifies the socket's owner; else 0. */
static __always_inline kt_cgroup_id kt_refer_cgroup(struct cgroup *cgroup)
{
	kt_cgroup_id id;

	if (!kt_tells_container(cgroup))
		return 0;
	id = kt_id_of_cgroup(cgroup);
	kt_selected(cgroup, id);
	return id;
}

#endif
