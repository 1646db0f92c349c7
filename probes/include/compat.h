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

/* The directory of `cgroup`, or of its ancestor at `level` if it lies deeper. cgroup.ancestors; before
 * 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]", 6.1) by climbing. */
static __always_inline struct kernfs_node *kt_ancestor_node(struct cgroup *cgroup, const int level)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	int above = BPF_CORE_READ(cgroup, level) - level;

	if (above <= 0)
		return node;
	if (bpf_core_field_exists(cgroup->ancestors))
		return BPF_CORE_READ(cgroup, ancestors[level], kn);
	for (int climbed = 0; climbed < 256 && climbed < above; climbed++)
		node = kt_kernfs_parent(node);
	return node;
}

/* Memory behind a pointer whose type the verifier knows is read directly, at a tenth of the cost of the
 * helper. A tracepoint's arguments are such pointers, and `current` since 3ca1032ab7ab (5.11); before it
 * everything is read by the helper, so that one text does for both. What the helper has read has no type:
 * there `typed` is false. So it is for NULL and other numbers that only look like pointers. */
#define KT_TYPED bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)
#define KT_READ(typed, ...) ((typed) && KT_TYPED ? ___arrow(__VA_ARGS__) : BPF_CORE_READ(__VA_ARGS__))

static __always_inline struct task_struct *kt_current(void)
{
	if (KT_TYPED)
		return bpf_get_current_task_btf();
	return (void *)bpf_get_current_task();
}

#endif
