// SPDX-License-Identifier: GPL-2.0
/*
 * Page allocations that fail.
 *
 * The kernel only calls warn_alloc() when an allocation has failed, even if the caller asked for silence. So a
 * healthy machine pays nothing. If functions cannot be probed, the tracepoint at the end of every allocation
 * takes its place, and each allocation pays for two instructions.
 */
#include <linux/ptrace.h> /* struct pt_regs */
#include "memory.h"

struct page_alloc_failure_event {
	struct kt_header header;
	struct kt_party process;
	kt_gfp gfp;
	u32 order;
};

#define BUDDY_ORDERS 16

/* A line of /proc/buddyinfo. */
struct buddy_row {
	u32 node;
	u32 orders; /* how many of `free` there are */
	char zone[16];
	u64 free[BUDDY_ORDERS]; /* blocks, by order */
};

#define BUDDY_ROWS 32

/* The free lists shortly after a failure; made in user space. */
struct buddyinfo_event {
	struct kt_header header;
	u32 rows;
	u32 page_size;
	u32 nowarn;   /* the flag with which a caller asks for silence; 0: unknown */
	u32 can_wait; /* the flag with which it says that it can wait */
	struct buddy_row row[BUDDY_ROWS];
};

KT_EVENT(page_alloc_failure);
KT_EVENT(buddyinfo);

/* Failures with one of these flags are left out. */
KT_SETTING(u32, kt_gfp_left_out, 0);

KT_GLOBAL int on_failure(u32 gfp, u32 order)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct page_alloc_failure_event *event;
	struct kt_party process = {};

	if ((gfp & kt_gfp_left_out) || !kt_wanted(current, NULL))
		return 0;
	kt_refer(&process, current);
	event = kt_reserve(page_alloc_failure);
	if (!event)
		return 0;
	event->process = process;
	event->gfp = gfp;
	event->order = order;
	kt_submit(event);
	return 0;
}

/* vmalloc also calls void warn_alloc(gfp_t gfp_mask, nodemask_t *nodemask, const char *fmt, ...), but only the
 * page allocator's format is followed by the order. */
SEC("kprobe/warn_alloc")
int BPF_KPROBE(on_warn_alloc, u64 gfp, void *nodemask, const char *format, u64 order)
{
	const char wanted[] = "page allocation failure: order:";
	char found[sizeof(wanted)] = {};

	bpf_probe_read_kernel_str(found, sizeof(found), format);
#pragma unroll
	for (u32 at = 0; at < sizeof(wanted) - 1; at++)
		if (found[at] != wanted[at])
			return 0;
	return on_failure(gfp, order);
}

SEC("tp_btf/mm_page_alloc")
KT_PROGRAM(on_mm_page_alloc, u64 *context)
{
	if (context[0]) /* the page */
		return 0;
	return on_failure(context[2], context[1]);
}
