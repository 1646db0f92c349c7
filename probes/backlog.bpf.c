// SPDX-License-Identifier: GPL-2.0
/*
 * Connections, and packets of a connection, that a full queue dropped. The kernel gives no reason that a
 * tracepoint could report: it consumes a SYN and ignores a final ACK.
 *
 * A storm makes few records. The first drop at a queue goes into the ring at once. A drop within a second of
 * the previous one is only counted, in kt_backlog_held, whose counts never decrease. User space reads them
 * every second and reports the increase. A drop is in one of the two, never in both.
 */
#include <linux/ptrace.h> /* struct pt_regs */
#include "ktrace.h"
#include "socket.h"

typedef __s64 s64;

enum backlog_queue {
	KT_QUEUE_SYN,
	KT_QUEUE_ACCEPT,
	KT_QUEUE_SOCKET,
};

enum backlog_stage {
	KT_STAGE_UNKNOWN,
	KT_STAGE_SYN,
	KT_STAGE_ACK,
};

enum backlog_source {
	KT_SOURCE_FUNCTION,
	KT_SOURCE_COUNTER,
};

enum backlog_remotes {
	KT_REMOTE_UNKNOWN,
	KT_REMOTE_ONE,
	KT_REMOTE_SEVERAL, /* the flow has the last one's */
};

KT_NAMES(backlog_queue);
KT_NAMES(backlog_stage);
KT_NAMES(backlog_source);
KT_NAMES(backlog_remotes);

#define KT_UNKNOWN (-1)

/* `flow.local` is the listening address, not the packet's destination. If a record has several drops, depth
 * and time are those of the last one. */
struct backlog_drop_event {
	struct kt_header header;
	u64 count;
	u64 socket; /* inode of the listening or connected socket; 0 = unknown, or nobody's */
	s64 depth;  /* entries, or bytes for KT_QUEUE_SOCKET; KT_UNKNOWN */
	s64 limit;  /* a queue is full when depth is above or at it; KT_UNKNOWN */
	kt_cgroup_id cgroup; /* in which the socket was made; 0 = it does not identify the owner */
	kt_network network;
	struct kt_flow flow;
	kt_netns netns;
	u8 queue;   /* enum backlog_queue */
	u8 stage;   /* enum backlog_stage */
	u8 source;  /* enum backlog_source */
	u8 remotes; /* enum backlog_remotes */
};

/* The process that holds a socket; found by user space in /proc. */
struct backlog_listener_event {
	struct kt_header header;
	u64 socket;
	struct kt_party process;
};

KT_EVENT(backlog_drop);
KT_EVENT(backlog_listener);

/* The kernel's members that only this probe reads. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock___queues {
	atomic_t sk_drops;
	struct {
		atomic_t rmem_alloc;
		int len;
	} sk_backlog;
};

struct request_sock_queue___backlog {
	atomic_t qlen;
};

struct inet_connection_sock___backlog {
	struct request_sock_queue___backlog icsk_accept_queue;
};

/* tcp_syncookies is an int up to 5.14, a byte since; its low byte is enough. */
struct net___backlog {
	struct {
		u8 sysctl_tcp_syncookies;
		int sysctl_max_syn_backlog;
	} ipv4;
};

struct inode___backlog {
	unsigned long i_ino;
};

struct file___backlog {
	struct inode___backlog *f_inode;
};

struct socket___backlog {
	struct file___backlog *file;
};

enum skb_drop_reason___backlog {
	SKB_DROP_REASON_SOCKET_BACKLOG = 0x7f,
};

#pragma clang attribute pop

struct kt_queue {
	kt_network network;
	kt_address address;
	kt_port port;
	u8 queue;
	u8 stage;
	u32 unused;
};

/* With more queues than this, each drop at the others is a record. */
KT_MAP(kt_backlog_held, HASH, 1024, struct kt_queue, struct backlog_drop_event);

/* A listening socket as tcp_conn_request() found it. */
struct kt_found {
	struct sock *sk;
	struct sk_buff *skb;
	u32 drops;
	u32 half_open;
	u32 queued;
	u32 limit;
};

KT_MAP(kt_backlog_found, PERCPU_ARRAY, 1, u32, struct kt_found);

/* The arguments of tcp_add_backlog(), for when it returns. */
struct kt_added {
	struct sock *sk;
	void *reason;
};

KT_MAP(kt_backlog_added, PERCPU_ARRAY, 1, u32, struct kt_added);

static __always_inline bool same_address(const u8 *one, const u8 *other)
{
	const u16 *a = (const void *)one, *b = (const void *)other;

	for (int i = 0; i < 8; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

static __always_inline void tell(const struct backlog_drop_event *drop)
{
	struct backlog_drop_event *event = kt_reserve_copy(backlog_drop, drop);

	if (!event)
		return;
	event->count = 1;
	kt_submit(event);
}

/* `drop` is complete but for time and count. */
static __always_inline void count_drop(struct backlog_drop_event *drop)
{
	const u64 second = 1000000000;
	struct backlog_drop_event *held;
	struct kt_queue queue = {};
	u64 quiet;

	drop->header.time = bpf_ktime_get_boot_ns();
	__builtin_memcpy(queue.address, drop->flow.local.address, sizeof(queue.address));
	queue.port = drop->flow.local.port;
	queue.network = drop->network;
	queue.queue = drop->queue;
	queue.stage = drop->stage;

	held = bpf_map_lookup_elem(&kt_backlog_held, &queue);
	if (!held) {
		bpf_map_update_elem(&kt_backlog_held, &queue, drop, BPF_NOEXIST);
		tell(drop);
		return;
	}
	quiet = drop->header.time - held->header.time;
	held->header.time = drop->header.time;
	held->depth = drop->depth;
	held->limit = drop->limit;
	held->socket = drop->socket;
	held->cgroup = drop->cgroup;
	if (quiet >= second && (s64)quiet > 0) {
		held->flow = drop->flow;
		held->remotes = drop->remotes;
		tell(drop);
		return;
	}
	if (!same_address(held->flow.remote.address, drop->flow.remote.address))
		held->remotes = KT_REMOTE_SEVERAL;
	held->flow = drop->flow;
	__sync_fetch_and_add(&held->count, 1);
}

/* Fills in everything that the socket itself knows. False if the event is not wanted. */
static __always_inline bool begin_drop(struct backlog_drop_event *drop, struct sock *sk)
{
	struct cgroup *cgroup = kt_cgroup_of_socket(sk);
	struct socket___backlog *socket;
	struct net *net;

	if (!kt_wanted_at(cgroup))
		return false;
	__builtin_memset(drop, 0, sizeof(*drop));
	socket = (void *)BPF_CORE_READ(sk, sk_socket); /* NULL before accept(2) */
	drop->socket = BPF_CORE_READ(socket, file, f_inode, i_ino);
	drop->cgroup = kt_refer_cgroup(cgroup);
	net = kt_net_of_socket(sk);
	drop->network = kt_network_of(net);
	drop->netns = kt_netns_of(net);
	drop->source = KT_SOURCE_FUNCTION;
	kt_flow_of_socket(&drop->flow, sk);
	return true;
}

static __always_inline void drop_at_listener(struct sock *sk, struct sk_buff *skb, u8 queue,
					     u8 stage, s64 depth, s64 limit)
{
	struct backlog_drop_event drop;
	struct kt_flow packet;

	if (!begin_drop(&drop, sk))
		return;
	drop.queue = queue;
	drop.stage = stage;
	drop.depth = depth;
	drop.limit = limit;
	if (kt_flow_of_packet(&packet, skb)) {
		drop.flow.remote = packet.remote;
		drop.remotes = KT_REMOTE_ONE;
	}
	count_drop(&drop);
}

static __always_inline u32 drops_of(struct sock *sk)
{
	return BPF_CORE_READ((struct sock___queues *)sk, sk_drops.counter);
}

static __always_inline void enter_conn_request(struct sock *sk, struct sk_buff *skb)
{
	struct inet_connection_sock___backlog *icsk = (void *)sk;
	struct kt_found *found;
	u32 only = 0;

	found = bpf_map_lookup_elem(&kt_backlog_found, &only);
	if (!found)
		return;
	found->sk = sk;
	found->skb = skb;
	found->drops = drops_of(sk);
	found->half_open = BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
	found->queued = BPF_CORE_READ(sk, sk_ack_backlog);
	found->limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
}

/*
 * The listener's own count shows that the SYN was dropped. The earlier state of the queues shows why, by the
 * tests of tcp_conn_request() itself. The SYN queue is full with `limit` entries, or with one more since
 * 099ecf59f05b ("tcp/dccp: Allow a connection when sk_max_ack_backlog is zero"). Without SYN cookies the last
 * quarter of tcp_max_syn_backlog is reserved for known peers.
 */
static __always_inline void exit_conn_request(void)
{
	u32 only = 0, syncookies, most, usable;
	struct kt_found *found;
	struct net___backlog *net;
	struct sock *sk;

	found = bpf_map_lookup_elem(&kt_backlog_found, &only);
	if (!found || !found->sk)
		return;
	sk = found->sk;
	found->sk = NULL;
	if (drops_of(sk) == found->drops)
		return;
	net = (void *)kt_net_of_socket(sk);
	syncookies = BPF_CORE_READ(net, ipv4.sysctl_tcp_syncookies);
	most = BPF_CORE_READ(net, ipv4.sysctl_max_syn_backlog);
	usable = most - (most >> 2);

	if (!syncookies && found->half_open > found->limit)
		drop_at_listener(sk, found->skb, KT_QUEUE_SYN, KT_STAGE_SYN, found->half_open,
				 found->limit);
	else if (found->queued > found->limit)
		drop_at_listener(sk, found->skb, KT_QUEUE_ACCEPT, KT_STAGE_SYN, found->queued,
				 found->limit);
	else if (!syncookies && found->half_open == found->limit)
		drop_at_listener(sk, found->skb, KT_QUEUE_SYN, KT_STAGE_SYN, found->half_open,
				 found->limit);
	else if (!syncookies && found->half_open > usable)
		drop_at_listener(sk, found->skb, KT_QUEUE_SYN, KT_STAGE_SYN, found->half_open,
				 usable);
}

/* The first test in tcp_v4_syn_recv_sock() and tcp_v6_syn_recv_sock(). */
static __always_inline void enter_syn_recv_sock(struct sock *sk, struct sk_buff *skb)
{
	u32 queued = BPF_CORE_READ(sk, sk_ack_backlog),
	    limit = BPF_CORE_READ(sk, sk_max_ack_backlog);

	if (queued > limit)
		drop_at_listener(sk, skb, KT_QUEUE_ACCEPT, KT_STAGE_ACK, queued, limit);
}

/* For a packet of IPv4 the function for IPv6 calls the other one. */
static __always_inline bool is_ipv6(struct sk_buff *skb)
{
	return BPF_CORE_READ(skb, protocol) == bpf_htons(0x86dd);
}

/* 7a26dc9e7b43 ("net: tcp: add skb drop reasons to tcp_add_backlog()") added this value and the function's
 * third argument, which holds the reason if the function returns true. Newer kernels (7.2) return the
 * reason. */
KT_PRESENT(backlog_reason, "net/dropreason-core.h net/dropreason.h linux/skbuff.h",
	   "SKB_DROP_REASON_SOCKET_BACKLOG,");

static __always_inline bool has_reason(void)
{
	return KT_CHOOSE(backlog_reason,
			 bpf_core_enum_value_exists(enum skb_drop_reason___backlog,
						    SKB_DROP_REASON_SOCKET_BACKLOG),
			 true, false);
}

static __always_inline u32 reason_of_backlog(void)
{
	return KT_CHOOSE(
		backlog_reason, true,
		bpf_core_enum_value(enum skb_drop_reason___backlog, SKB_DROP_REASON_SOCKET_BACKLOG),
		0);
}

/*
 * A packet that tcp_add_backlog() refused: the queue was full, or its checksum was wrong. If the kernel gives
 * no reason, a queue that is far from full means a wrong checksum: in every kernel the limit is above the
 * receive buffer. Kernels calculate the limit itself in several ways, and nothing shows which.
 */
static __always_inline void exit_add_backlog(struct sock *sk, u64 returned, void *reason)
{
	struct sock___queues *queues = (void *)sk;
	struct backlog_drop_event drop;
	u32 told = returned & 0xff; /* a bool only sets this byte */
	s64 depth;

	depth = (s64)BPF_CORE_READ(queues, sk_backlog.len) +
		BPF_CORE_READ(queues, sk_backlog.rmem_alloc.counter);
	if (has_reason()) {
		if (told == true)
			bpf_probe_read_kernel(&told, sizeof(told), reason);
		if (told != reason_of_backlog())
			return;
	} else if (!told || depth <= BPF_CORE_READ(sk, sk_rcvbuf)) {
		return;
	}
	if (!begin_drop(&drop, sk))
		return;
	drop.queue = KT_QUEUE_SOCKET;
	drop.stage = KT_STAGE_UNKNOWN;
	drop.depth = depth;
	drop.limit = KT_UNKNOWN;
	drop.remotes = KT_REMOTE_ONE;
	count_drop(&drop);
}

SEC("fentry/tcp_conn_request")
KT_TRAMPOLINE(fentry_conn_request, void *ctx)
{
	enter_conn_request(kt_argument(ctx, 2), kt_argument(ctx, 3));
	return 0;
}

SEC("fexit/tcp_conn_request")
KT_TRAMPOLINE(fexit_conn_request, void *ctx)
{
	exit_conn_request();
	return 0;
}

SEC("fentry/tcp_v4_syn_recv_sock")
KT_TRAMPOLINE(fentry_v4_syn_recv_sock, void *ctx)
{
	enter_syn_recv_sock(kt_argument(ctx, 0), kt_argument(ctx, 1));
	return 0;
}

SEC("fentry/tcp_v6_syn_recv_sock")
KT_TRAMPOLINE(fentry_v6_syn_recv_sock, void *ctx)
{
	struct sk_buff *skb = kt_argument(ctx, 1);

	if (is_ipv6(skb))
		enter_syn_recv_sock(kt_argument(ctx, 0), skb);
	return 0;
}

/* The return value stands behind the two or three arguments. Kernels with drop reasons have a helper for it
 * (f92c1e183604, 5.17). */
SEC("fexit/tcp_add_backlog")
KT_TRAMPOLINE(fexit_add_backlog, void *ctx)
{
	u64 returned = (u64)kt_argument(ctx, 2);

	if (has_reason())
		bpf_get_func_ret(ctx, &returned);
	exit_add_backlog(kt_argument(ctx, 0), returned, kt_argument(ctx, 2));
	return 0;
}

SEC("kprobe/tcp_conn_request")
int BPF_KPROBE(kprobe_conn_request, void *ops, void *af_ops, struct sock *sk, struct sk_buff *skb)
{
	enter_conn_request(sk, skb);
	return 0;
}

SEC("kretprobe/tcp_conn_request")
int BPF_KRETPROBE(kretprobe_conn_request)
{
	exit_conn_request();
	return 0;
}

SEC("kprobe/tcp_v4_syn_recv_sock")
int BPF_KPROBE(kprobe_v4_syn_recv_sock, struct sock *sk, struct sk_buff *skb)
{
	enter_syn_recv_sock(sk, skb);
	return 0;
}

SEC("kprobe/tcp_v6_syn_recv_sock")
int BPF_KPROBE(kprobe_v6_syn_recv_sock, struct sock *sk, struct sk_buff *skb)
{
	if (is_ipv6(skb))
		enter_syn_recv_sock(sk, skb);
	return 0;
}

SEC("kprobe/tcp_add_backlog")
int BPF_KPROBE(kprobe_add_backlog, struct sock *sk, struct sk_buff *skb, void *reason)
{
	struct kt_added added = { .sk = sk, .reason = reason };
	u32 only = 0;

	bpf_map_update_elem(&kt_backlog_added, &only, &added, BPF_ANY);
	return 0;
}

SEC("kretprobe/tcp_add_backlog")
int BPF_KRETPROBE(kretprobe_add_backlog, u64 returned)
{
	struct kt_added *added;
	u32 only = 0;

	added = bpf_map_lookup_elem(&kt_backlog_added, &only);
	if (added)
		exit_add_backlog(added->sk, returned, added->reason);
	return 0;
}
