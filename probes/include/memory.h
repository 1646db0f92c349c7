/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's memory types, limited to the members that ktrace reads, and code that the memory probes share.
 * As in kernel.h, only the names count; a suffix `___…` is a flavour of a type in kernel.h.
 */
#ifndef KT_MEMORY_H
#define KT_MEMORY_H

#include "ktrace.h"
#ifdef KT_BCC
#include <linux/memcontrol.h>
#include <linux/oom.h>
#endif

typedef __s64 s64;
typedef u32 kt_gfp; /* GFP flags by the numbers of the kernel that made the record */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage; /* in pages */
	unsigned long max;
};

struct cgroup_subsys_state___tree {
	struct cgroup_subsys_state___tree *parent;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	bool oom_group;
};

struct oom_control {
	struct mem_cgroup *memcg;
	unsigned int gfp_mask;
	int order;
};

struct percpu_counter {
	long long count;
};

struct mm_struct___percpu {
	struct percpu_counter rss_stat[4];
};

struct mm_rss_stat {
	atomic_long_t count[4];
};

struct mm_struct___counts {
	struct mm_rss_stat rss_stat;
};

struct signal_struct___oom {
	short oom_score_adj;
};

#pragma clang attribute pop

/* The names of GFP flags on this kernel, for recordings: "mask name" (mask in hexadecimal), NUL after each,
 * in the order of the kernel's own lookup. Made in user space. */
struct gfp_names_event {
	struct kt_header header;
	u32 names_bytes;
	u32 unused;
	char names[4096];
};

KT_EVENT(gfp_names);

/* Indices of rss_stat. The kernel's enum has no name, so it cannot be relocated, but was never renumbered. */
enum {
	KT_FILE_PAGES = 0,
	KT_ANON_PAGES = 1,
	KT_SHMEM_PAGES = 3,
};

/* The loader knows the size of a page; the programs have no way to ask. */
KT_SETTING(u32, kt_page_size, 4096);

#define KT_UNKNOWN_BYTES (-1LL)

KT_PRESENT(rss_percpu, "linux/mm_types.h", "struct percpu_counter rss_stat[");
KT_PRESENT(rss_counts, "linux/mm_types.h linux/mm_types_task.h",
	   "atomic_long_t count[NR_MM_COUNTERS];");
KT_PRESENT(oom_group, "linux/memcontrol.h", "bool oom_group;");

/* An array of percpu_counter since f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter"); before
 * that plain counters. Amounts not yet added up by the CPUs are left out, as in the kernel's own log. */
#define KT_RSS(mm, index)                                                                          \
	({                                                                                         \
		struct mm_struct___percpu *percpu_ = (void *)(mm);                                 \
		struct mm_struct___counts *counts_ = (void *)(mm);                                 \
		s64 pages_ =                                                                       \
			KT_CHOOSE(rss_percpu, bpf_core_field_exists(percpu_->rss_stat),            \
				  BPF_CORE_READ(percpu_, rss_stat[index].count),                   \
				  KT_CHOOSE(rss_counts, bpf_core_field_exists(counts_->rss_stat),  \
					    BPF_CORE_READ(counts_, rss_stat.count[index].counter), \
					    KT_UNKNOWN_BYTES));                                    \
		pages_ == KT_UNKNOWN_BYTES ? KT_UNKNOWN_BYTES                                      \
		: pages_ > 0               ? pages_ * kt_page_size                                 \
					   : 0;                                                    \
	})

/* The memory controller's state of `task`, in either cgroup version, or NULL. */
static __always_inline struct mem_cgroup *kt_memcg_of(struct task_struct *task)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL, **slot;

	if (!kt_has_memory_controller())
		return NULL;
	slot = (void *)set + bpf_core_field_offset(struct css_set, subsys) +
	       kt_memory_controller() * sizeof(*slot);
	bpf_core_read(&css, sizeof(css), slot);
	return css ? (void *)css - bpf_core_field_offset(struct mem_cgroup, css) : NULL;
}

static __always_inline struct mem_cgroup *kt_memcg_parent(struct mem_cgroup *memcg)
{
	struct cgroup_subsys_state___tree *css =
		(void *)memcg + bpf_core_field_offset(struct mem_cgroup, css);

	css = BPF_CORE_READ(css, parent);
	return css ? (void *)css - bpf_core_field_offset(struct mem_cgroup, css) : NULL;
}

#endif
