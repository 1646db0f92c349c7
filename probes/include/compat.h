/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All differences between kernels. Presence decides, never a version number.
 * The newest form comes first; each older form names the upstream commit that
 * ended it.
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

static __always_inline struct kernfs_node *kt_climbed(struct kernfs_node *node, int above)
{
	for (int climbed = 0; climbed < 256 && climbed < above; climbed++) {
		/* without this, a compiler may count down from `above` and drop the bound */
		asm volatile("" : "+r"(above));
		node = kt_kernfs_parent(node);
	}
	return node;
}

/* The directory of `cgroup`, or of its ancestor at `level` if it lies deeper. Reads cgroup.ancestors; before
 * 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]", 6.1) it climbs, which is most of
 * what the verifier has to follow. */
static __always_inline struct kernfs_node *kt_ancestor_node(struct cgroup *cgroup, const int level)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	int above = BPF_CORE_READ(cgroup, level) - level;

	if (above <= 0)
		return node;
	return KT_CHOOSE(cgroup_ancestors, bpf_core_field_exists(cgroup->ancestors),
			 BPF_CORE_READ(cgroup, ancestors[level], kn), kt_climbed(node, above));
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

/* Whether the process writes a core dump: signal_struct.core_state, with SIGNAL_GROUP_EXIT set besides. Before
 * 0258b5fd7c71 ("coredump: Limit coredumps to a single thread group", 5.16) core_state was in mm_struct. Then
 * a flag alone shows a dump, until 2f824d4d197e ("signal: Remove SIGNAL_GROUP_COREDUMP", 5.17). */
#define kt_dumps_core(signal, flags, typed)                                                  \
	(((flags) & 8) || KT_CHOOSE(core_state, bpf_core_field_exists((signal)->core_state), \
				    KT_READ(typed, signal, core_state) != NULL, false))

/* If the verifier knows a pointer's type, memory behind it is read directly, at a tenth of the helper's cost.
 * Such pointers are a tracepoint's arguments, and `current` since 3ca1032ab7ab (5.11). Older kernels read
 * everything by the helper, from the same source. A pointer that the helper has read has no type: pass
 * `typed` false. Also pass false for NULL and for integers that stand for pointers. See KT_READ in core.h.
 * Without the kernel's BTF no pointer has a type. */
static __always_inline struct task_struct *kt_current(void)
{
	return KT_CHOOSE(typed_pointers, KT_TYPED, bpf_get_current_task_btf(),
			 (void *)bpf_get_current_task());
}

#endif
