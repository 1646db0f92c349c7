/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between kernels, all of them, decided by presence and never by a
 * version number. The newest form comes first; each older form names the
 * upstream commit that ended it.
 */
#ifndef KT_COMPAT_H
#define KT_COMPAT_H

#include "kernel.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node___parent {
	struct kernfs_node *parent;
};

#pragma clang attribute pop

KT_PRESENT(kernfs_rcu_parent, "linux/kernfs.h", "*__parent;");
KT_PRESENT(cgroup_ancestors, "linux/cgroup-defs.h", "*ancestors[]");
KT_PRESENT(core_state, "linux/sched/signal.h", "struct core_state *core_state;");
KT_PRESENT(memory_controller, "generated/autoconf.h", "#define CONFIG_MEMCG 1");

/* kernfs_node.__parent; plain `parent` until 633488947ef6 ("kernfs: Use RCU to access
 * kernfs_node::parent"). */
static __always_inline struct kernfs_node *kt_kernfs_parent(struct kernfs_node *node)
{
	return KT_CHOOSE(kernfs_rcu_parent, bpf_core_field_exists(node->__parent),
			 BPF_CORE_READ(node, __parent),
			 BPF_CORE_READ((struct kernfs_node___parent *)node, parent));
}

/* The directory of `cgroup`, or of its ancestor at `level` if it lies deeper. cgroup.ancestors; before
 * 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]", 6.1) by climbing. */
static __always_inline struct kernfs_node *kt_ancestor_node(struct cgroup *cgroup, const int level)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	int above = BPF_CORE_READ(cgroup, level) - level;

	struct kernfs_node *known;

	if (above <= 0)
		return node;
	known = KT_CHOOSE(cgroup_ancestors, bpf_core_field_exists(cgroup->ancestors),
			  BPF_CORE_READ(cgroup, ancestors[level], kn), NULL);
	if (known)
		return known;
	for (int climbed = 0; climbed < 256 && climbed < above; climbed++) {
		/* else a compiler may count down from it, without the bound */
		asm volatile("" : "+r"(above));
		node = kt_kernfs_parent(node);
	}
	return node;
}

/* Whether the kernel has a memory controller, and the controller's number. */
static __always_inline bool kt_has_memory_controller(void)
{
	return KT_CHOOSE(memory_controller,
			 bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id), true,
			 false);
}

static __always_inline u32 kt_memory_controller(void)
{
	return KT_CHOOSE(memory_controller, true,
			 bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id), 0);
}

/* Whether the process writes a core dump. signal_struct.core_state, and SIGNAL_GROUP_EXIT besides; before
 * 0258b5fd7c71 ("coredump: Limit coredumps to a single thread group", 5.16) it was the memory's. Then a flag
 * alone said so, until 2f824d4d197e ("signal: Remove SIGNAL_GROUP_COREDUMP", 5.17). */
#define kt_dumps_core(signal, flags, typed)                                                  \
	(((flags) & 8) || KT_CHOOSE(core_state, bpf_core_field_exists((signal)->core_state), \
				    KT_READ(typed, signal, core_state) != NULL, false))

/* Memory behind a pointer whose type the verifier knows is read directly, at a tenth of the cost of the
 * helper. A tracepoint's arguments are such pointers, and `current` since 3ca1032ab7ab (5.11); before it
 * everything is read by the helper, so that one text does for both. What the helper has read has no type:
 * there `typed` is false. So it is for NULL and other numbers that only look like pointers. See KT_READ in
 * core.h; without the kernel's BTF no pointer has a type. */
static __always_inline struct task_struct *kt_current(void)
{
	return KT_CHOOSE(typed_pointers, KT_TYPED, bpf_get_current_task_btf(),
			 (void *)bpf_get_current_task());
}

#endif
