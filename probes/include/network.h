/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Network namespaces, each with a number that is never reused. The inode, which users see, can be: the
 * kernel gives the inode of an ended namespace to the next one.
 */
#ifndef KT_NETWORK_H
#define KT_NETWORK_H

#include "ktrace.h"
#ifdef KT_BCC
#include <linux/nsproxy.h>
#include <net/net_namespace.h>
#endif

typedef u32 kt_netns;      /* inode of a network namespace; 0 = unknown */
typedef u64 kt_network;    /* its unique number; 0 = unknown */
typedef u8 kt_address[16]; /* an IPv6 address; IPv4 as ::ffff:a.b.c.d */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
	u64 net_cookie;
	u32 hash_mix;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct___network {
	struct nsproxy *nsproxy;
};

#pragma clang attribute pop

KT_PRESENT(net_cookie, "net/net_namespace.h", "u64 net_cookie;");
KT_PRESENT(net_hash_mix, "net/net_namespace.h", "u32 hash_mix;");

static __always_inline kt_netns kt_netns_of(struct net *net)
{
	return net ? BPF_CORE_READ(net, ns.inum) : 0;
}

/* The number is net.net_cookie, which counts all namespaces since boot. Until 3d368ab87cf6 ("net: initialize
 * net->net_cookie at netns setup", 5.12) that is an atomic64_t that stays 0 until its first use. Before, it is
 * the inode with net.hash_mix, which is random since 355b98553789 ("netns: provide pure entropy for
 * net_hash_mix()", 5.1). Older kernels have no such member, and the number is the inode alone. */
static __always_inline kt_network kt_network_of(struct net *net)
{
	if (!net)
		return 0;
	return KT_CHOOSE(net_cookie, bpf_core_field_exists(net->net_cookie),
			 BPF_CORE_READ(net, net_cookie),
			 KT_CHOOSE(net_hash_mix, bpf_core_field_exists(net->hash_mix),
				   kt_netns_of(net) | (u64)BPF_CORE_READ(net, hash_mix) << 32,
				   (u64)kt_netns_of(net)));
}

static __always_inline struct net *kt_net_of_task(struct task_struct *task)
{
	return BPF_CORE_READ((struct task_struct___network *)task, nsproxy, net_ns);
}

#endif
