// SPDX-License-Identifier: GPL-2.0
/*
 * TCP resets, sent and received. The process that closed a connection is only known if its own system call
 * raises the reset. All other resets happen in softirq and belong to the socket, not to a process.
 */
#include <linux/ptrace.h> /* struct pt_regs */
#include "socket.h"

typedef char kt_reset_reason[32];

/* Inferred causes, for when the kernel gives no reason, or a vague one. */
enum cause {
	UNKNOWN,
	NO_SOCKET,        /* nothing listens there */
	UNREAD_DATA,      /* closed while received data had not been read */
	LINGER_ZERO,      /* closed with SO_LINGER and a time of 0 */
	TIME_WAIT,        /* a segment for a connection that has ended */
	REFUSED,          /* the answer to our SYN */
	LISTENER_CLOSED,  /* before the connection was accepted */
	DATA_AFTER_CLOSE, /* for a connection that its program had closed */
};

KT_NAMES(cause);

/* The earlier traffic on a connection that has a full socket. */
struct traffic {
	u64 sent_ago; /* ns, to a tick of the kernel's timers */
	u64 received_ago;
	u64 heard_ago; /* anything that acknowledged something */
	u64 bytes_sent;
	u64 bytes_received;
	u32 unacknowledged; /* bytes that the program has sent and the other end has not acknowledged */
	u8 known;
	u8 unused[3];
};

struct tcp_reset_event {
	struct kt_header header;
	struct kt_party process; /* all zero: not known */
	kt_cgroup_id cgroup;     /* the socket's; 0: none that identifies the owner */
	kt_network network;
	kt_netns netns;
	kt_tcp_state state;
	u8 sent;
	u8 cause; /* enum cause */
	u8 syn;   /* the packet that caused it wanted to open a connection */
	struct kt_flow flow;
	kt_reset_reason reason; /* the running kernel's name; empty: none given */
	struct traffic traffic;
	u64 ended_ago; /* ns since it went to TIME_WAIT, to a millisecond; 0: not known */
	u8 answered;   /* TCP flags of the packet that caused it; 0: none did */
	u8 looked;     /* 1: traffic and flags were read; 0 in recordings of older versions */
	u8 unused[6];
};

KT_EVENT(tcp_reset);

#define REASONS 64
#define NO_REASON REASONS

/* The names of `enum sk_rst_reason` without their prefix, by number. The loader writes them, because the
 * numbers move between releases. If the verifier cannot tell whether there is a reason, none is read. */
#ifdef KT_CHECKS_ARGUMENTS
const volatile kt_reset_reason kt_reset_reasons[REASONS] = {};
#define name_reason(reason, number) \
	bpf_probe_read_kernel(reason, sizeof(kt_reset_reason), (void *)&kt_reset_reasons[number])
#else
#define name_reason(reason, number)
#endif

/* The tick of the kernel's timers in ns, the unit of the sockets' time stamps; 0: unknown. */
KT_SETTING(u64, kt_tick, 0);

/* Report resets of all sockets, because the other end may explain an event of a selected one. */
KT_SETTING(bool, kt_whosever, false);

KT_PRESENT(bytes_sent, "linux/tcp.h", "u64 bytes_sent;");
KT_PRESENT(entry_stamp, "net/inet_timewait_sock.h", "u32 tw_entry_stamp;");

/* The flags' numbers come from the running kernel. */
#define has_flag(sk, flag) \
	(BPF_CORE_READ(sk, __sk_common.skc_flags) >> bpf_core_enum_value(enum sock_flags, flag) & 1)

/* Bytes that were received and never read. A FIN also takes a sequence number, the last one. */
static __always_inline u32 unread_bytes(struct sock *sk)
{
	struct tcp_sock *tcp = (void *)sk;
	u32 bytes = BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq);

	return bytes && has_flag(sk, SOCK_DONE) ? bytes - 1 : bytes;
}

/*
 * Whether a system call of `current` raised it. Only close(2) and a disconnect set a socket that still has its
 * file to CLOSE before they reset the connection; timers, packets and `ss -K` reset it first. A kernel thread
 * may drop the last reference to a file; that is no system call.
 */
static __always_inline bool in_system_call(struct sock *sk, struct sk_buff *skb)
{
	const u32 PF_KTHREAD = 0x00200000;
	struct task_struct *current = (void *)bpf_get_current_task();

	return sk && !skb && kt_state_of(sk) == KT_TCP_CLOSE && BPF_CORE_READ(sk, sk_socket) &&
	       !(BPF_CORE_READ(current, flags) & PF_KTHREAD);
}

/* See __tcp_close() in net/ipv4/tcp.c: it checks unread data before SO_LINGER. close() shuts both directions,
 * a disconnect does not. */
static __always_inline u8 cause_of_close(struct sock *sk)
{
	if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_shutdown) != 3)
		return UNKNOWN;
	if (unread_bytes(sk))
		return UNREAD_DATA;
	if (has_flag(sk, SOCK_LINGER) && !BPF_CORE_READ(sk, sk_lingertime))
		return LINGER_ZERO;
	return UNKNOWN;
}

/* A connection that never had a file and is in CLOSE when it is reset. Only unaccepted connections of a closed
 * listener are disconnected this way, inet_child_forget() in net/ipv4/inet_connection_sock.c. */
static __always_inline u8 cause_without_file(struct sock *sk)
{
	if (kt_state_of(sk) == KT_TCP_CLOSE && !BPF_CORE_READ(sk, sk_socket) &&
	    !has_flag(sk, SOCK_DEAD))
		return LISTENER_CLOSED;
	return UNKNOWN;
}

static __always_inline u8 cause_of(struct sock *sk, struct sk_buff *skb, bool sent, bool own)
{
	u8 state = kt_state_of(sk);

	if (own)
		return cause_of_close(sk);
	if (!sent)
		return state == KT_TCP_SYN_SENT ? REFUSED : UNKNOWN;
	if (!skb)
		return cause_without_file(sk);
	if (!sk)
		return NO_SOCKET;
	/* only tcp_rcv_state_process() ends a connection and then answers for it, and only an orphaned one */
	if (state == KT_TCP_CLOSE && has_flag(sk, SOCK_DEAD))
		return DATA_AFTER_CLOSE;
	return state == KT_TCP_TIME_WAIT ? TIME_WAIT : UNKNOWN;
}

static __always_inline u64 ago(u32 stamp)
{
	return (u64)((u32)bpf_jiffies64() - stamp) * kt_tick;
}

/* `bytes_received` counts a FIN, too. Only an established connection has traffic, or one that was. */
static __always_inline void look_at_traffic(struct traffic *traffic, struct sock *sk)
{
	struct tcp_sock *tcp = (void *)sk;
	u8 state = kt_state_of(sk);

	__builtin_memset(traffic, 0, sizeof(*traffic));
	if (!kt_is_full(sk) || state == KT_TCP_SYN_SENT || state == KT_TCP_SYN_RECV ||
	    state == KT_TCP_LISTEN || !kt_tick)
		return;
	traffic->sent_ago = ago(BPF_CORE_READ(tcp, lsndtime));
	traffic->received_ago =
		ago(BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ack.lrcvtime));
	traffic->heard_ago = ago(BPF_CORE_READ(tcp, rcv_tstamp));
	traffic->bytes_sent = KT_CHOOSE(bytes_sent, bpf_core_field_exists(tcp->bytes_sent),
					BPF_CORE_READ(tcp, bytes_sent), (u64)0);
	traffic->bytes_received = BPF_CORE_READ(tcp, bytes_received);
	if (traffic->bytes_received && has_flag(sk, SOCK_DONE))
		traffic->bytes_received--;
	traffic->unacknowledged = BPF_CORE_READ(tcp, write_seq) - BPF_CORE_READ(tcp, snd_una);
	traffic->known = KT_CHOOSE(bytes_sent, bpf_core_field_exists(tcp->bytes_sent), true, false);
}

/* inet_timewait_sock.tw_entry_stamp, in milliseconds of CLOCK_MONOTONIC, came with "tcp: Measure TIME-WAIT
 * reuse delay with millisecond precision" (6.14). */
static __always_inline u64 time_in_time_wait(struct sock *sk)
{
	struct inet_timewait_sock *tw = (void *)sk;
	u32 since;

	if (kt_state_of(sk) != KT_TCP_TIME_WAIT)
		return 0;
	since = KT_CHOOSE(entry_stamp, bpf_core_field_exists(tw->tw_entry_stamp),
			  BPF_CORE_READ(tw, tw_entry_stamp), (u32)0);
	return since ? (u64)((u32)(bpf_ktime_get_ns() / 1000000) - since) * 1000000 : 0;
}

static __always_inline bool wanted(struct cgroup *cgroup, bool own)
{
	if (kt_whosever)
		return true;
	if (own)
		return kt_wanted((void *)bpf_get_current_task(), NULL);
	return kt_wanted_at(cgroup);
}

/* `skb` is the answered packet, or NULL. Its addresses are more exact than a listening socket's. */
static __always_inline int report(struct sock *sk, struct sk_buff *skb, bool sent, u32 reason)
{
	struct cgroup *cgroup = kt_cgroup_of_socket(sk);
	bool own = sent && in_system_call(sk, skb);
	struct kt_tcp_header answered = {};
	struct tcp_reset_event *event;
	struct kt_party process = {};
	kt_cgroup_id id;
	struct net *net;

	if (!wanted(cgroup, own))
		return 0;
	id = kt_refer_cgroup(cgroup);
	if (own)
		kt_refer(&process, (void *)bpf_get_current_task());
	if (skb)
		kt_tcp_header_of(&answered, skb);
	event = kt_reserve(tcp_reset);
	if (!event)
		return 0;
	event->process = process;
	event->cgroup = id;
	net = sk ? kt_net_of_socket(sk) : kt_net_of_packet(skb);
	event->network = kt_network_of(net);
	event->netns = kt_netns_of(net);
	event->state = kt_state_of(sk);
	event->sent = sent;
	event->cause = cause_of(sk, skb, sent, own);
	event->syn = (answered.flags & (KT_TH_SYN | KT_TH_ACK)) == KT_TH_SYN;
	if (!kt_flow_of_packet(&event->flow, skb))
		kt_flow_of_socket(&event->flow, sk);
	__builtin_memset(event->reason, 0, sizeof(event->reason));
	if (reason < REASONS)
		name_reason(event->reason, reason);
	look_at_traffic(&event->traffic, sk);
	event->ended_ago = time_in_time_wait(sk);
	event->answered = answered.flags;
	event->looked = 1;
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	kt_submit(event);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
KT_PROGRAM(on_receive_reset, void *ctx)
{
	return report(kt_argument(ctx, 0), NULL, false, NO_REASON);
}

/* The reason and resets without a socket came together: 19822a980e19 ("trace: tcp: fully support
 * trace_tcp_send_reset") and b533fb9cf4f7 ("rstreason: make it work in trace world"). The verifier refuses
 * ctx[2] if the tracepoint has no such argument. */
#ifdef KT_CHECKS_ARGUMENTS
SEC("tp_btf/tcp_send_reset")
KT_PROGRAM(on_send_reset_with_reason, u64 *ctx)
{
	return report(kt_argument(ctx, 0), kt_argument(ctx, 1), true, ctx[2]);
}
#endif

/* Without a reason, and only for full sockets. */
SEC("tp_btf/tcp_send_reset")
KT_PROGRAM(on_send_reset, void *ctx)
{
	return report(kt_argument(ctx, 0), kt_argument(ctx, 1), true, NO_REASON);
}

/* Resets that answer no packet. The functions that send the others are probed themselves. */
SEC("tp_btf/tcp_send_reset")
KT_PROGRAM(on_send_reset_by_itself, void *ctx)
{
	if (kt_argument(ctx, 1))
		return 0;
	return report(kt_argument(ctx, 0), NULL, true, NO_REASON);
}

/* tcp_v4_send_reset() and tcp_v6_send_reset() send no reset in answer to a reset, or to a packet without a
 * socket that was not for this node. */
static __always_inline bool is_answered(struct sock *sk, struct sk_buff *skb, bool local)
{
	struct kt_tcp_header tcp = {};

	return kt_tcp_header_of(&tcp, skb) && !(tcp.flags & KT_TH_RST) && (sk || local);
}

static __always_inline int answer_v4(struct sock *sk, struct sk_buff *skb)
{
	const u8 RTN_LOCAL = 2;
	struct rtable *route = (void *)kt_route_of_packet(skb);

	if (!is_answered(sk, skb, BPF_CORE_READ(route, rt_type) == RTN_LOCAL))
		return 0;
	return report(sk, skb, true, NO_REASON);
}

static __always_inline int answer_v6(struct sock *sk, struct sk_buff *skb)
{
	const u32 RTF_LOCAL = 0x80000000;
	struct rt6_info *route = (void *)kt_route_of_packet(skb);

	if (!is_answered(sk, skb, BPF_CORE_READ(route, rt6i_flags) & RTF_LOCAL))
		return 0;
	return report(sk, skb, true, NO_REASON);
}

SEC("fentry/tcp_v4_send_reset")
KT_TRAMPOLINE(on_v4_send_reset, void *ctx)
{
	return answer_v4(kt_argument(ctx, 0), kt_argument(ctx, 1));
}

SEC("fentry/tcp_v6_send_reset")
KT_TRAMPOLINE(on_v6_send_reset, void *ctx)
{
	return answer_v6(kt_argument(ctx, 0), kt_argument(ctx, 1));
}

SEC("kprobe/tcp_v4_send_reset")
int BPF_KPROBE(at_v4_send_reset, struct sock *sk, struct sk_buff *skb)
{
	return answer_v4(sk, skb);
}

SEC("kprobe/tcp_v6_send_reset")
int BPF_KPROBE(at_v6_send_reset, struct sock *sk, struct sk_buff *skb)
{
	return answer_v6(sk, skb);
}
