// SPDX-License-Identifier: GPL-2.0
/*
 * TCP connects that fail, or that nobody answers. A socket that connects is in SYN_SENT; the state after it says
 * how that went. Every change of any socket's state comes by here, so the test for this one comes first.
 *
 * The caller is known only where its own system call ends the attempt: the kernel has then set no error in the
 * socket. Packets and timers set one before they close it.
 */
#include "socket.h"

enum connect_outcome {
	KT_CONNECT_FAILED,     /* with the error that the kernel set in the socket */
	KT_CONNECT_NOT_SENT,   /* the call failed before the first SYN */
	KT_CONNECT_UNANSWERED, /* it still tries */
	KT_CONNECT_GIVEN_UP,   /* closed by its program, or with it */
	KT_CONNECT_LATE,       /* connected after all */
};

KT_NAMES(connect_outcome);

struct connect_failure_event {
	struct kt_header header;
	struct kt_party process; /* all zero: not known */
	kt_cgroup_id cgroup;     /* the socket's; 0: none that identifies the owner */
	kt_network network;
	u64 duration; /* ns since the first SYN, to a millisecond */
	kt_netns netns;
	u32 error; /* errno, positive; 0: none */
	u32 syns;
	u8 outcome; /* enum connect_outcome */
	u8 reset;   /* a reset refused it */
	u8 timed;   /* `duration` is known */
	u8 unused;
	struct kt_flow flow;
};

KT_EVENT(connect_failure);

/* An attempt is told once while it lasts: at this number of SYNs, which is after 3 s. An attempt that is given
 * up, or answered, with fewer is an everyday thing: a client with several addresses to try, a health check. */
#define KT_TOLD_SYNS 3

/* The kernel's members that only this probe reads. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock___connects {
	u16 sk_protocol;
	int sk_err;
};

struct tcp_sock___connects {
	u32 segs_out;
	u32 retrans_stamp;
};

struct tcp_sock___usec {
	u8 tcp_usec_ts : 1;
};

#pragma clang attribute pop

KT_PRESENT(wide_protocol, "net/sock.h", "u16 sk_protocol;");

/* Sockets that are being reset: tcp_reset() reports a reset before it closes the socket, and may be preempted in
 * between. */
KT_MAP(kt_connect_resets, LRU_HASH, 1024, u64, u8);

/* Sockets of MPTCP have the same states, but not TCP's counts: those are in the connections below them. MPTCP is
 * younger than bf9765145b85 ("sock: Make sk_protocol a 16-bit value", 5.6). */
static __always_inline bool is_of_tcp(struct sock *sk)
{
	const u32 tcp = 6;
	struct sock___connects *of = (void *)sk;

	return KT_CHOOSE(wide_protocol, bpf_core_field_size(of->sk_protocol) == sizeof(u16),
			 BPF_CORE_READ(of, sk_protocol) == tcp, true);
}

static __always_inline u32 syns_of(struct sock *sk)
{
	return BPF_CORE_READ((struct tcp_sock___connects *)sk, segs_out);
}

/* Whether the socket's time stamps are in us: a route may ask for that since 614e8316aa4c ("tcp: add support for
 * usec resolution in TCP TS values", 6.7). BCC cannot read a bit. */
#ifdef KT_CHECKS_ARGUMENTS
static __always_inline bool counts_in_us(struct sock *sk)
{
	struct tcp_sock___usec *tcp = (void *)sk;

	return bpf_core_field_exists(tcp->tcp_usec_ts) &&
	       BPF_CORE_READ_BITFIELD_PROBED(tcp, tcp_usec_ts);
}
#else
#define counts_in_us(sk) false
#endif

/* In SYN_SENT, retrans_stamp is the time of the first SYN, in ms of CLOCK_MONOTONIC. An answer clears it before the
 * state changes. */
static __always_inline void time_since_first_syn(struct connect_failure_event *event,
						 struct sock *sk)
{
	u32 stamp = BPF_CORE_READ((struct tcp_sock___connects *)sk, retrans_stamp);
	u64 unit = counts_in_us(sk) ? 1000 : 1000000;

	event->timed = event->syns && stamp;
	event->duration = (u64)((u32)(bpf_ktime_get_ns() / unit) - stamp) * unit;
}

static __always_inline bool takes_reset(u64 sk)
{
	bool yes = bpf_map_lookup_elem(&kt_connect_resets, &sk);

	if (yes)
		bpf_map_delete_elem(&kt_connect_resets, &sk);
	return yes;
}

/* Rare, and with the socket as a number, so that the verifier checks it once. */
KT_GLOBAL int tell_connect(u64 address, u32 outcome, u32 error, u32 syns)
{
	struct sock *sk = (void *)address;
	bool own = outcome == KT_CONNECT_NOT_SENT || outcome == KT_CONNECT_GIVEN_UP;
	struct task_struct *current = (void *)bpf_get_current_task();
	struct cgroup *cgroup = kt_cgroup_of_socket(sk);
	struct connect_failure_event *event;
	bool reset = error && takes_reset(address);
	struct kt_party process = {};
	kt_cgroup_id id;
	struct net *net;

	if (own ? !kt_wanted(current, NULL) : !kt_wanted_at(cgroup))
		return 0;
	id = kt_refer_cgroup(cgroup);
	if (own)
		kt_refer(&process, current);
	event = kt_reserve(connect_failure);
	if (!event)
		return 0;
	event->process = process;
	event->cgroup = id;
	net = kt_net_of_socket(sk);
	event->network = kt_network_of(net);
	event->netns = kt_netns_of(net);
	event->error = error;
	event->syns = syns;
	event->outcome = outcome;
	event->reset = reset;
	event->unused = 0;
	time_since_first_syn(event, sk);
	kt_flow_of_socket(&event->flow, sk);
	kt_submit(event);
	return 0;
}

/* close(2) shuts both directions before it changes the state; a connect(2) that fails shuts none. */
static __always_inline int end_connect(struct sock *sk)
{
	u32 error = BPF_CORE_READ((struct sock___connects *)sk, sk_err), syns = syns_of(sk);

	if (error)
		return tell_connect(kt_number(sk), KT_CONNECT_FAILED, error, syns);
	if (!syns && !BPF_CORE_READ_BITFIELD_PROBED(sk, sk_shutdown))
		return tell_connect(kt_number(sk), KT_CONNECT_NOT_SENT, 0, 0);
	return syns < KT_TOLD_SYNS ? 0 : tell_connect(kt_number(sk), KT_CONNECT_GIVEN_UP, 0, syns);
}

SEC("tp_btf/inet_sock_set_state")
KT_PROGRAM(on_set_state, u64 *ctx)
{
	int before = ctx[1], after = ctx[2];
	struct sock *sk;
	u32 syns;

	if (before != KT_TCP_SYN_SENT)
		return 0;
	sk = kt_argument(ctx, 0);
	if (after == KT_TCP_CLOSE)
		return is_of_tcp(sk) ? end_connect(sk) : 0;
	syns = syns_of(sk);
	if (after != KT_TCP_ESTABLISHED || syns < KT_TOLD_SYNS || !is_of_tcp(sk))
		return 0;
	return tell_connect(kt_number(sk), KT_CONNECT_LATE, 0, syns);
}

SEC("tp_btf/tcp_retransmit_skb")
KT_PROGRAM(on_retransmit, u64 *ctx)
{
	struct sock *sk = kt_argument(ctx, 0);

	if (kt_state_of(sk) != KT_TCP_SYN_SENT || syns_of(sk) != KT_TOLD_SYNS)
		return 0;
	return tell_connect(kt_number(sk), KT_CONNECT_UNANSWERED, 0, KT_TOLD_SYNS);
}

SEC("tp_btf/tcp_receive_reset")
KT_PROGRAM(on_reset_of_connect, u64 *ctx)
{
	struct sock *sk = kt_argument(ctx, 0);
	u64 number = kt_number(sk);
	u8 yes = 1;

	if (kt_state_of(sk) == KT_TCP_SYN_SENT)
		bpf_map_update_elem(&kt_connect_resets, &number, &yes, BPF_ANY);
	return 0;
}
