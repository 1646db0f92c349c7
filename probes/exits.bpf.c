// SPDX-License-Identifier: GPL-2.0
/*
 * How processes end: one event when the last thread of a process exits.
 */
#include "ktrace.h"

struct exit_event {
	struct kt_header header;
	struct kt_party process;
	s32 status; /* as wait(2) gives it */
	u32 unused;
};

KT_EVENT(exit);

struct kt_ended {
	u64 start;
	u64 pid;
};

/* If the last two threads exit at the same moment, both see that no other is left; the first one reports. */
KT_MAP(kt_reported, LRU_HASH, 4096, struct kt_ended, u8);

static __always_inline bool already_reported(struct task_struct *leader)
{
	struct kt_ended process = {
		.start = BPF_CORE_READ(leader, start_boottime),
		.pid = BPF_CORE_READ(leader, tgid),
	};
	u8 yes = 1;

	return bpf_map_update_elem(&kt_reported, &process, &yes, BPF_NOEXIST);
}

/* The status that the parent's wait(2) will report, see wait_task_zombie() in kernel/exit.c. */
static __always_inline s32 status_of(struct task_struct *leader)
{
	const u32 SIGNAL_GROUP_EXIT = 4;
	struct signal_struct *signal = BPF_CORE_READ(leader, signal);

	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		return BPF_CORE_READ(signal, group_exit_code);
	return BPF_CORE_READ(leader, exit_code);
}

static __always_inline int on_exit(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct kt_party process = {};
	struct exit_event *event;

	if (BPF_CORE_READ(task, signal, live.counter) || !kt_wanted(leader, NULL) ||
	    already_reported(leader))
		return 0;
	kt_refer(&process, leader);
	event = kt_reserve(exit);
	if (!event)
		return 0;
	event->process = process;
	event->status = status_of(leader);
	event->unused = 0;
	kt_submit(event);
	return 0;
}

/* New kernels (7.2) let a program on a tracepoint be preempted. An exit on that CPU meanwhile would be refused
 * and lost. This program is attached through perf, which switches preemption off. */
SEC("tp/sched/sched_process_exit")
KT_PROGRAM(on_exit_undisturbed, void *context)
{
	return on_exit((void *)bpf_get_current_task());
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	return on_exit(task);
}
