/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between kernels, all of them, decided by presence and never by a
 * version number. The newest form comes first; each older form names the
 * upstream commit that ended it.
 */
#ifndef KT_COMPAT_H
#define KT_COMPAT_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node___parent {
	struct kernfs_node *parent;
};

#pragma clang attribute pop

/* kernfs_node.__parent; plain `parent` until 633488947ef6 ("kernfs: Use RCU to access
 * kernfs_node::parent"). */
static __always_inline struct kernfs_node *kt_kernfs_parent(struct kernfs_node *node)
{
	if (bpf_core_field_exists(node->__parent))
		return BPF_CORE_READ(node, __parent);
	return BPF_CORE_READ((struct kernfs_node___parent *)node, parent);
}

#endif
