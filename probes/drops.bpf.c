// SPDX-License-Identifier: GPL-2.0
/*
 * Packets that the kernel drops, with its reason. A packet that is not dropped meets no program.
 *
 * A storm makes few records. The first drop of a flow goes into the ring at once. A drop within a second of the
 * previous one of its flow is only counted, in kt_drop_flows. So that varying ports do not make a flow of every
 * packet, a namespace has room for few records of one reason in a second; what comes beyond them is counted in
 * kt_drop_rest. Counts never decrease: user space reads them every second and reports the increase. A drop is in
 * one of the three, never in two.
 */
#include <linux/ptrace.h> /* struct pt_regs */
#include "socket.h"
#ifdef KT_BCC
#include <linux/inetdevice.h>
#endif

typedef __s64 s64;
typedef char kt_drop_name[32];
typedef char kt_device[16];
typedef char kt_symbol[48];
typedef char kt_rule_name[32];

enum drop_direction {
	KT_DROP_UNKNOWN,
	KT_DROP_IN,      /* for this namespace, or not yet known whether it is */
	KT_DROP_FORWARD, /* received, and on its way to somewhere else */
	KT_DROP_OUT,     /* sent by this namespace */
};

/* What the reason rests on. */
enum drop_basis {
	KT_DROP_REASON,   /* the kernel gave it */
	KT_DROP_ICMP,     /* the error that the kernel sent to the packet's source just before */
	KT_DROP_MARTIAN,  /* the kernel had just complained about its source */
	KT_DROP_LOCATION, /* the function in which it was dropped */
	KT_DROP_COUNTER, /* a counter of the namespace's, read by user space: nothing else is known */
};

/* What the packets of one record have in common. */
enum drop_several {
	KT_DROP_SOURCES = 1,
	KT_DROP_DESTINATIONS = 2,
	KT_DROP_PORTS = 4, /* of the destination */
	KT_DROP_PROTOCOLS = 8,
};

enum drop_tracked {
	KT_DROP_TRACKED_UNKNOWN,
	KT_DROP_UNTRACKED, /* conntrack has no entry for it */
	KT_DROP_TRACKED,
};

/* Where netfilter dropped it: in the chains of this type. */
enum drop_hook {
	KT_HOOK_UNKNOWN,
	KT_HOOK_PREROUTING, /* the five of IP are in the kernel's own order */
	KT_HOOK_INPUT,
	KT_HOOK_FORWARD,
	KT_HOOK_OUTPUT,
	KT_HOOK_POSTROUTING,
	KT_HOOK_INGRESS,
	KT_HOOK_EGRESS,
};

KT_NAMES(drop_direction);
KT_NAMES(drop_hook);
KT_NAMES(drop_basis);
KT_NAMES(drop_several);
KT_NAMES(drop_tracked);

/* If a record has several drops, size and time are those of the last one. */
struct packet_drop_event {
	struct kt_header header;
	u64 count;
	kt_cgroup_id cgroup; /* of the socket that sent it, or was to get it; 0 = none that tells */
	kt_network network;
	kt_netns netns;
	u32 number; /* of the reason */
	u32 size;   /* bytes, from the network header on */
	u32 mtu;    /* of its route; 0 = unknown */
	u32 held;   /* bytes in the socket's receive buffer */
	u32 room;   /* and how many there may be; 0 = unknown */
	kt_device device;
	struct kt_endpoint source;
	struct kt_endpoint destination; /* port 0: unknown, or the protocol has none */
	u16 family;                     /* 0: no IP packet, or nothing is known of it */
	u8 protocol;
	u8 direction; /* enum drop_direction */
	u8 basis;     /* enum drop_basis */
	u8 several;   /* enum drop_several */
	u8 tracked;   /* enum drop_tracked */
	u8 answered;  /* the kernel has sent this ICMP error to the source */
	u8 icmp_type;
	u8 icmp_code;
	u8 own_source;      /* the source is an address of this node; for KT_DROP_MARTIAN */
	u8 hook;            /* enum drop_hook */
	u8 nft_chains;      /* how many base chains nftables has at the hook */
	u8 xt_tables;       /* how many tables iptables has there */
	u8 family_of_table; /* NFPROTO_* */
	u8 others; /* how many functions of others it calls there, such as connection tracking's */
	u8 unused[4];
	kt_rule_name table;  /* the last one of those that may have dropped it; empty: unknown */
	kt_rule_name chain;  /* its base chain; iptables calls it as the hook */
	kt_drop_name reason; /* the running kernel's name; empty: none given */
	kt_symbol function;  /* that dropped it, and its module; empty: unknown */
};

/* What connection tracking of a namespace has counted just before; read by user space when netfilter has dropped
 * packets. All but `entries` and `maximum` are increases since the last reading. */
struct drop_conntrack_event {
	struct kt_header header;
	kt_network network;
	u64 dropped; /* for want of room */
	u64 early_dropped;
	u64 insert_failed;
	u64 clash_resolved;
	u64 invalid;
	u32 entries;
	u32 maximum; /* 0 = unknown */
};

KT_EVENT(packet_drop);
KT_EVENT(drop_conntrack);

/* The kernel's members that only this probe reads. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff___dropped {
	struct sock *sk;
	unsigned int len;
	int skb_iif;
	unsigned long _nfct;
};

struct net_device___dropped {
	char name[16];
	unsigned int mtu;
};

struct dst_entry___dropped {
	unsigned long _metrics;
};

struct sock___dropped {
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
};

struct nf_hook_entry {
	void *hook;
	void *priv;
};

struct nf_hook_entries {
	u16 num_hook_entries;
	struct nf_hook_entry hooks[];
};

struct net___hooks {
	struct {
		struct nf_hook_entries *hooks_ipv4[5];
		struct nf_hook_entries *hooks_ipv6[5];
	} nf;
};

struct nft_table {
	char *name;
};

struct nft_table___family {
	u16 family : 6;
};

struct nft_chain {
	struct nft_table *table;
	char *name;
};

struct xt_table {
	char name[32];
};

struct in_ifaddr {
	struct in_ifaddr *ifa_next;
	u32 ifa_local;
};

struct in_device {
	struct in_ifaddr *ifa_list;
};

enum skb_drop_reason___dropped {
	SKB_DROP_REASON_IP_LOCAL_SOURCE = 0x7f, /* the real number comes from the running kernel */
};

#pragma clang attribute pop

KT_PRESENT(nfct, "linux/skbuff.h", "unsigned long _nfct;");

/* Headers as they are in every packet. */
struct kt_drop_ipv4 {
	u8 version_and_length;
	u8 service;
	u16 total;
	u16 identification;
	u16 fragment;
	u8 hops;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct kt_drop_ipv6 {
	u32 version;
	u16 payload;
	u8 next;
	u8 hops;
	kt_address source;
	kt_address destination;
};

#define DROP_REASONS 256
#define DROP_PLACES 16
/* Numbers of drops without a reason: of a place, and of any other. */
#define DROP_PLACE(index) (DROP_REASONS + (index))
#define NO_DROP_REASON DROP_PLACE(DROP_PLACES)

/* The code of the ICMP error that answers a packet for a closed port. */
#define KT_PORT_UNREACHABLE 3

/* What is done with a reason. */
enum drop_wanted {
	KT_DROP_LEAVE_OUT,
	KT_DROP_TELL,
	KT_DROP_TELL_HOOK, /* and where netfilter was asked */
	KT_DROP_ASK,       /* the reason says nothing: only with a note, or at a known place */
};

KT_NAMES(drop_wanted);

struct kt_drop_place {
	u64 begin;
	u64 end;
	kt_symbol name;
};

/* Too large for the stack. */
KT_MAP(kt_drop_made, PERCPU_ARRAY, 1, u32, struct packet_drop_event);

static __always_inline struct packet_drop_event *drop_in_the_making(void)
{
	u32 only = 0;

	return bpf_map_lookup_elem(&kt_drop_made, &only);
}

/*
 * The loader writes what is done with a reason, and its name without the prefix, by number: these move between
 * releases. The places are functions in which a packet without a reason is looked at, for kernels that give fewer
 * reasons, or none. BCC has no such tables.
 */
#ifdef KT_CHECKS_ARGUMENTS
const volatile u8 kt_drop_wanted[DROP_REASONS] = {};
const volatile kt_drop_name kt_drop_names[DROP_REASONS] = {};
const volatile struct kt_drop_place kt_drop_places[DROP_PLACES] = {};

static __always_inline u32 place_of(u64 location)
{
	for (u32 i = 0; i < DROP_PLACES; i++) {
		u64 begin = kt_drop_places[i].begin;

		if (!begin)
			break;
		if (location >= begin && location < kt_drop_places[i].end)
			return DROP_PLACE(i);
	}
	return NO_DROP_REASON;
}

static __always_inline void name_reason_of(struct packet_drop_event *drop)
{
	if (drop->number < DROP_REASONS)
		bpf_probe_read_kernel(&drop->reason, sizeof(drop->reason),
				      (void *)&kt_drop_names[drop->number]);
}

/* The kernel's own symbols, since 7b15523a989b ("bpf: Add a bpf_snprintf helper", 5.13). */
static __always_inline void name_function_of(struct packet_drop_event *drop, u64 location)
{
	static const char symbol[] = "%ps";
	u32 place = drop->number - DROP_PLACE(0);

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_snprintf))
		bpf_snprintf(drop->function, sizeof(drop->function), symbol, &location,
			     sizeof(location));
	else if (place < DROP_PLACES)
		bpf_probe_read_kernel(&drop->function, sizeof(drop->function),
				      (void *)&kt_drop_places[place].name);
}

#define begins(symbol, words) (!bpf_strncmp(symbol, sizeof(words) - 1, words))

/* By the function that asked netfilter. */
static __always_inline u8 hook_of(const char *asking)
{
	if (begins(asking, "ip_rcv") || begins(asking, "ip_sublist_rcv") ||
	    begins(asking, "ipv6_rcv") || begins(asking, "ip6_sublist_rcv"))
		return KT_HOOK_PREROUTING;
	if (begins(asking, "ip_local_deliver") || begins(asking, "ip6_input"))
		return KT_HOOK_INPUT;
	if (begins(asking, "ip_forward") || begins(asking, "ip6_forward"))
		return KT_HOOK_FORWARD;
	if (begins(asking, "__ip_local_out") || begins(asking, "__ip6_local_out") ||
	    begins(asking, "ip6_xmit") || begins(asking, "raw_sendmsg") ||
	    begins(asking, "rawv6_sendmsg") || begins(asking, "ndisc_send_skb"))
		return KT_HOOK_OUTPUT;
	if (begins(asking, "ip_output") || begins(asking, "ip_mc_output") ||
	    begins(asking, "ip6_output"))
		return KT_HOOK_POSTROUTING;
	if (begins(asking, "__netif_receive_skb_core"))
		return KT_HOOK_INGRESS;
	return begins(asking, "__dev_queue_xmit") ? KT_HOOK_EGRESS : KT_HOOK_UNKNOWN;
}

static __always_inline void add_chain(struct packet_drop_event *drop, void *base)
{
	struct nft_chain *chain = base;
	struct nft_table *table;

	drop->nft_chains++;
	if (!bpf_core_field_exists(chain->table) || !bpf_core_field_exists(chain->name))
		return;
	table = BPF_CORE_READ(chain, table);
	drop->family_of_table =
		BPF_CORE_READ_BITFIELD_PROBED((struct nft_table___family *)table, family);
	bpf_probe_read_kernel_str(drop->table, sizeof(drop->table), BPF_CORE_READ(table, name));
	bpf_probe_read_kernel_str(drop->chain, sizeof(drop->chain), BPF_CORE_READ(chain, name));
}

/* Since 8844e01062dd ("netfilter: iptables: allow use of ipt_do_table as hookfn", 5.16) the hook's argument is the
 * table; before it, each table has a function of its own. */
static __always_inline void add_table(struct packet_drop_event *drop, void *of)
{
	drop->xt_tables++;
	if (drop->nft_chains || !bpf_core_type_exists(struct xt_table))
		return;
	bpf_core_read(&drop->table, sizeof(drop->table), &((struct xt_table *)of)->name);
}

#define DROP_FRAMES 16
#define DROP_HOOKED 12

struct kt_drop_stack {
	u64 frames[DROP_FRAMES];
	kt_symbol symbol;
};

KT_MAP(kt_drop_stacks, PERCPU_ARRAY, 1, u32, struct kt_drop_stack);

static __always_inline void put_symbol(struct kt_drop_stack *stack, u64 address)
{
	static const char symbol[] = "%ps";

	bpf_snprintf(stack->symbol, sizeof(stack->symbol), symbol, &address, sizeof(address));
}

/* Who hangs at the hook: of these one has dropped it. */
static __always_inline void read_hooked(struct packet_drop_event *drop, struct net *net,
					struct kt_drop_stack *stack)
{
	struct net___hooks *of = (void *)net;
	u32 at = drop->hook - KT_HOOK_PREROUTING;
	struct nf_hook_entries *hooked = NULL;
	const void *hooks;
	u16 count;

	if (at > KT_HOOK_POSTROUTING - KT_HOOK_PREROUTING)
		return;
	hooks = drop->family == KT_AF_INET ? (void *)of + bpf_core_field_offset(of->nf.hooks_ipv4)
					   : (void *)of + bpf_core_field_offset(of->nf.hooks_ipv6);
	bpf_probe_read_kernel(&hooked, sizeof(hooked), hooks + at * sizeof(hooked));
	count = BPF_CORE_READ(hooked, num_hook_entries);
	for (u32 i = 0; i < DROP_HOOKED && i < count; i++) {
		struct nf_hook_entry entry = {};

		bpf_probe_read_kernel(&entry, sizeof(entry),
				      (void *)hooked + bpf_core_field_offset(hooked->hooks) +
					      i * sizeof(entry));
		put_symbol(stack, (u64)entry.hook);
		if (begins(stack->symbol, "nft_do_chain"))
			add_chain(drop, entry.priv);
		else if (begins(stack->symbol, "ipt_do_table") ||
			 begins(stack->symbol, "ip6t_do_table"))
			add_table(drop, entry.priv);
		else
			drop->others++;
	}
}

KT_GLOBAL int find_hook(u64 net)
{
	u32 only = 0;
	struct kt_drop_stack *stack = bpf_map_lookup_elem(&kt_drop_stacks, &only);
	struct packet_drop_event *drop = drop_in_the_making();
	bool asked = false;

	if (!stack || !drop)
		return 0;
	for (int i = 0; i < DROP_FRAMES && stack->frames[i]; i++) {
		put_symbol(stack, stack->frames[i]);
		if (begins(stack->symbol, "nf_hook_slow")) {
			asked = true;
		} else if (asked) {
			drop->hook = hook_of(stack->symbol);
			break;
		}
	}
	read_hooked(drop, (void *)net, stack);
	return 0;
}

/* Only for what is told, which is little: it takes some microseconds. */
static __always_inline void name_hook(const void *ctx, struct net *net)
{
	u32 only = 0;
	struct kt_drop_stack *stack = bpf_map_lookup_elem(&kt_drop_stacks, &only);

	if (!stack || !bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_strncmp))
		return;
	__builtin_memset(stack->frames, 0, sizeof(stack->frames));
	if (bpf_get_stack((void *)ctx, stack->frames, sizeof(stack->frames), 0) > 0)
		find_hook((u64)net);
}
#else
static __always_inline u32 place_of(u64 location)
{
	return NO_DROP_REASON;
}

static __always_inline void name_reason_of(struct packet_drop_event *drop)
{
}

static __always_inline void name_function_of(struct packet_drop_event *drop, u64 location)
{
}

static __always_inline void name_hook(const void *ctx, struct net *net)
{
}
#endif

struct kt_drop_flow {
	kt_network network;
	u64 location;
	kt_address source;
	kt_address destination;
	u32 number;
	kt_port port;
	u8 protocol;
	u8 direction;
};

/* A flow that finds no room is told with the rest. */
KT_MAP(kt_drop_flows, HASH, 2048, struct kt_drop_flow, struct packet_drop_event);

struct kt_drop_reason {
	kt_network network;
	u32 number;
	u32 unused;
};

struct kt_drop_pace {
	u64 since;
	u64 told;
};

/* With more pairs of namespace and reason than this, each drop of the others is a record. */
KT_MAP(kt_drop_paces, HASH, 1024, struct kt_drop_reason, struct kt_drop_pace);
KT_MAP(kt_drop_rest, HASH, 1024, struct kt_drop_reason, struct packet_drop_event);

/* All that the two count together: while it stays the same, user space need not look at them. */
KT_MAP(kt_drop_counted, ARRAY, 1, u32, u64);

/* Records of one reason in a namespace and a second. User space adds as many with counts: of any second, in which two
 * of either may begin, that is 20. */
#define DROPS_A_SECOND 5

/* What the kernel has done with a packet just before it dropped it, on this CPU. */
struct kt_drop_note {
	u64 skb;
	u64 time;
	u8 icmp_type;
	u8 icmp_code;
	u8 basis; /* KT_DROP_ICMP or KT_DROP_MARTIAN */
	u8 own;   /* the source is an address of the device */
	u8 unused[4];
};

KT_MAP(kt_drop_noted, PERCPU_ARRAY, 1, u32, struct kt_drop_note);

static __always_inline struct kt_drop_note *drop_note(void)
{
	u32 only = 0;

	return bpf_map_lookup_elem(&kt_drop_noted, &only);
}

/* An skb's address is used again, so a note is valid for one drop and a moment. */
static __always_inline struct kt_drop_note *note_of(struct sk_buff *skb)
{
	const u64 moment = 10000000;
	struct kt_drop_note *note = drop_note();

	if (!note || note->skb != (u64)skb)
		return NULL;
	note->skb = 0;
	return bpf_ktime_get_boot_ns() - note->time < moment ? note : NULL;
}

static __always_inline void read_ports(struct packet_drop_event *drop, const void *at)
{
	const u8 TCP = 6, UDP = 17, DCCP = 33, SCTP = 132, UDP_LITE = 136;
	u8 protocol = drop->protocol;
	u16 ports[2] = {};

	if (protocol != TCP && protocol != UDP && protocol != DCCP && protocol != SCTP &&
	    protocol != UDP_LITE)
		return;
	bpf_probe_read_kernel(ports, sizeof(ports), at);
	drop->source.port = bpf_ntohs(ports[0]);
	drop->destination.port = bpf_ntohs(ports[1]);
}

static __always_inline void read_ipv4(struct packet_drop_event *drop, const void *at)
{
	struct kt_drop_ipv4 ip = {};
	u16 not_first = bpf_htons(0x1fff);

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
		return;
	drop->family = KT_AF_INET;
	drop->protocol = ip.protocol;
	if (ip.total)
		drop->size = bpf_ntohs(ip.total);
	kt_put_ipv4(&drop->source, ip.source);
	kt_put_ipv4(&drop->destination, ip.destination);
	if (!(ip.fragment & not_first))
		read_ports(drop, at + (ip.version_and_length & 15) * 4);
}

static __always_inline void read_ipv6(struct packet_drop_event *drop, const void *at)
{
	struct kt_drop_ipv6 ip = {};

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
		return;
	drop->family = KT_AF_INET6;
	drop->protocol = ip.next;
	if (ip.payload)
		drop->size = bpf_ntohs(ip.payload) + sizeof(ip);
	__builtin_memcpy(drop->source.address, ip.source, sizeof(kt_address));
	__builtin_memcpy(drop->destination.address, ip.destination, sizeof(kt_address));
	read_ports(drop, at + sizeof(ip));
}

static __always_inline void read_packet(struct packet_drop_event *drop, struct sk_buff *skb)
{
	const u16 ipv4 = bpf_htons(0x0800), ipv6 = bpf_htons(0x86dd);
	u16 at = BPF_CORE_READ(skb, network_header);
	u16 protocol = BPF_CORE_READ(skb, protocol);
	const void *header;
	u8 first = 0;

	drop->size = BPF_CORE_READ((struct sk_buff___dropped *)skb, len);
	if (!at || at == (u16)~0)
		return;
	header = BPF_CORE_READ(skb, head) + at;
	if (bpf_probe_read_kernel(&first, 1, header))
		return;
	/* a packet that is being sent has no protocol yet */
	if (first >> 4 == 4 && (protocol == ipv4 || !protocol))
		read_ipv4(drop, header);
	else if (first >> 4 == 6 && (protocol == ipv6 || !protocol))
		read_ipv6(drop, header);
}

static __always_inline u8 direction_of(u16 family, struct sk_buff *skb, struct dst_entry *route)
{
	const u32 RTF_LOCAL = 0x80000000;
	const u8 RTN_UNICAST = 1, RTN_MULTICAST = 5; /* behind it are those that lead nowhere */
	u8 type;

	if (!BPF_CORE_READ((struct sk_buff___dropped *)skb, skb_iif))
		return KT_DROP_OUT;
	if (!route)
		return KT_DROP_IN;
	if (family == KT_AF_INET) {
		type = BPF_CORE_READ((struct rtable *)route, rt_type);
		return type == RTN_UNICAST || type > RTN_MULTICAST ? KT_DROP_FORWARD : KT_DROP_IN;
	}
	if (family == KT_AF_INET6)
		return BPF_CORE_READ((struct rt6_info *)route, rt6i_flags) & RTF_LOCAL
			       ? KT_DROP_IN
			       : KT_DROP_FORWARD;
	return KT_DROP_IN;
}

/* dst_metrics: an array behind a pointer with two flags, in which RTAX_MTU is 2 and the first is 1. */
static __always_inline u32 mtu_of(struct dst_entry *route)
{
	unsigned long metrics = BPF_CORE_READ((struct dst_entry___dropped *)route, _metrics) & ~3UL;
	struct net_device___dropped *dev = (void *)BPF_CORE_READ(route, dev);
	u32 mtu = 0;

	if (metrics)
		bpf_probe_read_kernel(&mtu, sizeof(mtu), (void *)metrics + sizeof(mtu));
	return mtu ? mtu : BPF_CORE_READ(dev, mtu);
}

static __always_inline u8 tracked(struct sk_buff *skb)
{
	struct sk_buff___dropped *dropped = (void *)skb;
	unsigned long entry;

	entry = KT_CHOOSE(nfct, bpf_core_field_exists(dropped->_nfct),
			  BPF_CORE_READ(dropped, _nfct), (unsigned long)1);
	if (entry == 1)
		return KT_DROP_TRACKED_UNKNOWN;
	return entry & ~7UL ? KT_DROP_TRACKED : KT_DROP_UNTRACKED;
}

static __always_inline void read_socket(struct packet_drop_event *drop, struct sock *sk)
{
	if (!kt_is_full(sk))
		return;
	drop->held = BPF_CORE_READ((struct sock___dropped *)sk, sk_backlog.rmem_alloc.counter);
	drop->room = BPF_CORE_READ(sk, sk_rcvbuf);
}

/* Of a packet in a socket's queue `dev` is something else, and cannot be read. */
static __always_inline void read_device(struct packet_drop_event *drop, struct sk_buff *skb,
					struct dst_entry *route)
{
	struct net_device *dev = BPF_CORE_READ(skb, dev);

	if (dev)
		bpf_core_read(&drop->device, sizeof(drop->device),
			      &((struct net_device___dropped *)dev)->name);
	if (drop->device[0] || !route)
		return;
	dev = BPF_CORE_READ(route, dev);
	bpf_core_read(&drop->device, sizeof(drop->device),
		      &((struct net_device___dropped *)dev)->name);
}

static __always_inline void tell_drop(const struct packet_drop_event *drop)
{
	struct packet_drop_event *event = kt_reserve_copy(packet_drop, drop);

	if (!event)
		return;
	event->count = 1;
	kt_submit(event);
}

/* Whether one more record of this reason is allowed in this second. */
static __always_inline bool has_room(const struct kt_drop_reason *reason, u64 now)
{
	const u64 second = 1000000000;
	struct kt_drop_pace *pace = bpf_map_lookup_elem(&kt_drop_paces, reason);

	if (!pace) {
		struct kt_drop_pace fresh = { .since = now, .told = 1 };

		return !bpf_map_update_elem(&kt_drop_paces, reason, &fresh, BPF_NOEXIST);
	}
	if (now - pace->since >= second) {
		pace->since = now;
		pace->told = 0;
	}
	if (pace->told >= DROPS_A_SECOND)
		return false;
	__sync_fetch_and_add(&pace->told, 1);
	return true;
}

static __always_inline bool is_same(const u8 *one, const u8 *other)
{
	const u16 *a = (const void *)one, *b = (const void *)other;

	for (int i = 0; i < 8; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

static __always_inline void count_in(struct packet_drop_event *drop)
{
	u32 first = 0;
	u64 *counted = bpf_map_lookup_elem(&kt_drop_counted, &first);

	__sync_fetch_and_add(&drop->count, 1);
	if (counted)
		__sync_fetch_and_add(counted, 1);
}

/* After a second of quiet, in which user space has told the others, the rest begins anew. */
static __always_inline void add_to_rest(const struct kt_drop_reason *reason,
					const struct packet_drop_event *drop)
{
	const u64 second = 1000000000;
	struct packet_drop_event *rest = bpf_map_lookup_elem(&kt_drop_rest, reason);
	u64 quiet;

	if (!rest) {
		bpf_map_update_elem(&kt_drop_rest, reason, drop, BPF_NOEXIST);
		rest = bpf_map_lookup_elem(&kt_drop_rest, reason);
	}
	if (!rest) {
		tell_drop(drop);
		return;
	}
	quiet = drop->header.time - rest->header.time;
	if (quiet >= second && (s64)quiet > 0) {
		rest->source = drop->source;
		rest->destination = drop->destination;
		rest->protocol = drop->protocol;
		rest->direction = drop->direction;
		rest->basis = drop->basis;
		__builtin_memcpy(rest->device, drop->device, sizeof(rest->device));
		rest->several = 0;
	}
	if (!is_same(rest->source.address, drop->source.address))
		rest->several |= KT_DROP_SOURCES;
	if (!is_same(rest->destination.address, drop->destination.address))
		rest->several |= KT_DROP_DESTINATIONS;
	if (rest->destination.port != drop->destination.port)
		rest->several |= KT_DROP_PORTS;
	if (rest->protocol != drop->protocol)
		rest->several |= KT_DROP_PROTOCOLS;
	rest->header.time = drop->header.time;
	rest->size = drop->size;
	count_in(rest);
}

/* `drop` is complete but for the count, the function, and the hook if that is `hooked`. */
static __always_inline void count_packet(const void *ctx, struct packet_drop_event *drop,
					 u64 location, struct net *net, const bool hooked)
{
	const u64 second = 1000000000;
	struct kt_drop_reason reason = { .network = drop->network, .number = drop->number };
	struct kt_drop_flow flow = {};
	struct packet_drop_event *held;
	u64 now = drop->header.time, quiet;

	flow.network = drop->network;
	flow.location = location;
	__builtin_memcpy(flow.source, drop->source.address, sizeof(flow.source));
	__builtin_memcpy(flow.destination, drop->destination.address, sizeof(flow.destination));
	flow.number = drop->number;
	flow.port = drop->destination.port;
	flow.protocol = drop->protocol;
	flow.direction = drop->direction;

	held = bpf_map_lookup_elem(&kt_drop_flows, &flow);
	if (held) {
		quiet = now - held->header.time;
		held->header.time = now;
		held->size = drop->size;
		held->held = drop->held;
		if (quiet < second || (s64)quiet < 0 || !has_room(&reason, now)) {
			count_in(held);
			return;
		}
	} else if (!has_room(&reason, now)) {
		add_to_rest(&reason, drop);
		return;
	}
	name_function_of(drop, location);
	if (hooked)
		name_hook(ctx, net);
	if (!held)
		bpf_map_update_elem(&kt_drop_flows, &flow, drop, BPF_NOEXIST);
	tell_drop(drop);
}

/* `sk` is the socket that was to get the packet, if the kernel tells. */
static __always_inline int report_drop(const void *ctx, u32 number, u8 basis, struct sock *sk,
				       const struct kt_drop_note *note, const bool hooked)
{
	struct sk_buff *skb = kt_argument(ctx, 0);
	struct packet_drop_event *drop = drop_in_the_making();
	struct dst_entry *route = kt_route_of_packet(skb);
	struct cgroup *cgroup;
	struct net *net;

	if (!sk)
		sk = BPF_CORE_READ((struct sk_buff___dropped *)skb, sk);
	cgroup = kt_cgroup_of_socket(sk);
	if (!drop || !kt_wanted_at(cgroup))
		return 0;
	__builtin_memset(drop, 0, sizeof(*drop));
	drop->header.time = bpf_ktime_get_boot_ns();
	drop->cgroup = kt_refer_cgroup(cgroup);
	net = sk ? kt_net_of_socket(sk) : kt_net_of_packet(skb);
	drop->network = kt_network_of(net);
	drop->netns = kt_netns_of(net);
	drop->number = number;
	drop->basis = basis;
	if (note) {
		drop->answered = note->basis == KT_DROP_ICMP;
		drop->icmp_type = note->icmp_type;
		drop->icmp_code = note->icmp_code;
		drop->own_source = note->own;
	}
	read_packet(drop, skb);
	drop->direction = direction_of(drop->family, skb, route);
	drop->mtu = route ? mtu_of(route) : 0;
	drop->tracked = tracked(skb);
	read_socket(drop, sk);
	read_device(drop, skb, route);
	name_reason_of(drop);
	count_packet(ctx, drop, (u64)kt_argument(ctx, 1), net, hooked);
	return 0;
}

/* A drop whose reason says nothing is told if something else does. Where a failed reverse path filter is a reason,
 * a complaint without one is about a local source. */
static __always_inline int report_unexplained(const void *ctx, const bool reasons)
{
	struct kt_drop_note *note = note_of(kt_argument(ctx, 0));
	u32 place;

	if (note && reasons)
		note->own = true;
	if (note && note->basis == KT_DROP_MARTIAN)
		return report_drop(ctx, NO_DROP_REASON, KT_DROP_MARTIAN, NULL, note, false);
	if (note && note->icmp_code != KT_PORT_UNREACHABLE)
		return report_drop(ctx, NO_DROP_REASON, KT_DROP_ICMP, NULL, note, false);
	place = place_of((u64)kt_argument(ctx, 1));
	if (place == NO_DROP_REASON)
		return 0;
	return report_drop(ctx, place, KT_DROP_LOCATION, NULL, note, false);
}

#ifdef KT_CHECKS_ARGUMENTS
/* Most drops are left out here, so nothing else is looked at before. `receiver`: the tracepoint has a fourth
 * argument, the socket that was to get the packet. */
static __always_inline int on_reason(const void *ctx, u32 reason, const bool receiver)
{
	u8 wanted = reason < DROP_REASONS ? kt_drop_wanted[reason] : KT_DROP_TELL;
	struct sock *sk;

	if (wanted == KT_DROP_LEAVE_OUT)
		return 0;
	if (wanted == KT_DROP_ASK)
		return report_unexplained(ctx, true);
	sk = receiver ? kt_argument(ctx, 3) : NULL;
	return report_drop(ctx, reason, KT_DROP_REASON, sk, note_of(kt_argument(ctx, 0)),
			   wanted == KT_DROP_TELL_HOOK);
}

/* A local source is a reason since "net: ip: make fib_validate_source() support drop reasons" (6.14), and the
 * socket is told since c53795d48ee8 ("net: add rx_sk to trace_kfree_skb", 6.11). Older kernels refuse this
 * program: the relocation of the reason's number fails. */
SEC("tp_btf/kfree_skb")
KT_PROGRAM(on_drop_with_every_reason, u64 *ctx)
{
	u32 newest = bpf_core_enum_value(enum skb_drop_reason___dropped,
					 SKB_DROP_REASON_IP_LOCAL_SOURCE);

	asm volatile("" : : "r"(newest));
	return on_reason(ctx, ctx[2], true);
}

/* c504e5c2f964 ("net: skb: introduce kfree_skb_reason()", 5.17). */
SEC("tp_btf/kfree_skb")
KT_PROGRAM(on_drop_with_reason, u64 *ctx)
{
	return on_reason(ctx, ctx[2], false);
}
#endif

SEC("tp_btf/kfree_skb")
KT_PROGRAM(on_drop, void *ctx)
{
	return report_unexplained(ctx, false);
}

SEC("tp_btf/icmp_send")
KT_PROGRAM(on_icmp_send, void *ctx)
{
	const u8 unreachable = 3;
	struct kt_drop_note *note;
	u8 type = (u64)kt_argument(ctx, 1);

	note = type == unreachable ? drop_note() : NULL;
	if (!note)
		return 0;
	note->skb = (u64)kt_argument(ctx, 0);
	note->time = bpf_ktime_get_boot_ns();
	note->icmp_type = type;
	note->icmp_code = (u64)kt_argument(ctx, 2);
	note->basis = KT_DROP_ICMP;
	note->own = 0;
	return 0;
}

#define DEVICE_ADDRESSES 8

static __always_inline bool is_of_device(struct in_device *in_dev, u32 address)
{
	struct in_ifaddr *one = BPF_CORE_READ(in_dev, ifa_list);

	for (int i = 0; i < DEVICE_ADDRESSES && one; i++) {
		if (BPF_CORE_READ(one, ifa_local) == address)
			return true;
		one = BPF_CORE_READ(one, ifa_next);
	}
	return false;
}

static __always_inline int note_martian(struct in_device *in_dev, struct sk_buff *skb, u32 source)
{
	struct kt_drop_note *note = drop_note();

	if (!note)
		return 0;
	note->skb = (u64)skb;
	note->time = bpf_ktime_get_boot_ns();
	note->icmp_type = note->icmp_code = 0;
	note->basis = KT_DROP_MARTIAN;
	note->own = is_of_device(in_dev, source);
	return 0;
}

SEC("fentry/ip_handle_martian_source")
KT_TRAMPOLINE(fentry_martian_source, void *ctx)
{
	return note_martian(kt_argument(ctx, 1), kt_argument(ctx, 2), (u64)kt_argument(ctx, 4));
}

SEC("kprobe/ip_handle_martian_source")
int BPF_KPROBE(kprobe_martian_source, void *dev, struct in_device *in_dev, struct sk_buff *skb,
	       u32 destination, u32 source)
{
	return note_martian(in_dev, skb, source);
}
