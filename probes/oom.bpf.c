// SPDX-License-Identifier: GPL-2.0
/*
 * OOM kills: the victim, and the task whose allocation failed.
 *
 * One kill goes through three hooks, all in the context of that task. oom_kill_process() knows whose limit
 * was hit (if functions can be probed). The SIGKILL proves the kill. mark_victim follows at once; alone it
 * proves nothing, because it also fires for a process that is dying anyway and only gets access to the last
 * reserves.
 */
#include <linux/ptrace.h> /* struct pt_regs */
#include "memory.h"

enum oom_scope {
	OOM_SCOPE_UNKNOWN,
	OOM_SCOPE_CGROUP,
	OOM_SCOPE_SYSTEM,
};

KT_NAMES(oom_scope);

/* In bytes; -1: unknown. */
struct oom_memory {
	s64 anon;
	s64 file;
	s64 shmem;
	s32 score_adj;
	u32 unused;
};

struct oom_event {
	struct kt_header header; /* time: that of the kill */
	struct kt_party victim;
	struct kt_party trigger;
	struct oom_memory memory;
	kt_cgroup_id limit_cgroup; /* 0: unknown, or none */
	s64 limit;                 /* in bytes; -1: unknown; near the largest value: none */
	s64 usage;
	kt_gfp gfp;
	s32 order; /* -1: by SysRq */
	u32 asked; /* whether gfp and order are known */
	u32 scope; /* enum oom_scope */
};

/* Another process of a group that dies as a whole (memory.oom.group). */
struct oom_member_event {
	struct kt_header header;
	kt_boot_ns first; /* the time of the oom_event it belongs to */
	struct kt_party victim;
	struct oom_memory memory;
};

/* A row of the kernel log's table. */
struct oom_row {
	kt_pid pid;
	kt_uid uid;
	kt_comm comm;
	s64 rss;
	s64 anon;
	s64 file;
	s64 shmem;
	s32 score_adj;
	u32 unused;
};

#define OOM_ROWS 10

/* The kernel log's report of one kill; made in user space, believed only together with an oom_event. */
struct oom_log_event {
	struct kt_header header; /* time: that of the log line */
	s64 limit;
	s64 usage;
	kt_pid pid;
	s32 order;
	kt_gfp gfp;
	u32 rows;
	u32 tasks; /* how many rows the table had */
	u32 unused;
	char gfp_names[512];          /* with | between them */
	char words[1024];             /* "oom-kill:…" as it was written, up to the task's name */
	struct oom_row row[OOM_ROWS]; /* the largest first */
};

/* Why the kernel log cannot be read; made in user space. */
struct oom_unread_event {
	struct kt_header header;
	s32 error; /* an errno */
	u32 unused;
};

/* The memory charged to a pod's limit, read in user space just after a kill: first the whole pod, then each
 * cgroup directly in it. In bytes; -1: unknown; a limit near the largest value: none. */
struct oom_share_event {
	struct kt_header header; /* time: that of the log line */
	s64 limit;
	s64 usage;
	s64 anon;
	s64 file;
	s64 shmem;
	kt_pid pid;     /* of the victim */
	u32 part;       /* 0: the pod as a whole */
	char name[256]; /* of a part's directory */
};

/* The victim's own cgroup at the moment of the kill; user space may find its directory gone. */
struct oom_own_event {
	struct kt_header header;
	kt_boot_ns first; /* the time of the oom_event it belongs to */
	kt_cgroup_id cgroup;
	s64 limit;
	s64 usage;
};

KT_EVENT(oom);
KT_EVENT(oom_member);
KT_EVENT(oom_log);
KT_EVENT(oom_share);
KT_EVENT(oom_own);
KT_EVENT(oom_unread);

/* The progress of a task that carries out an OOM kill. */
struct oom_progress {
	u64 victim;    /* the task that got the SIGKILL */
	u64 signalled; /* when it did */
	u64 domain;    /* the cgroup whose limit was hit */
	u64 group;     /* the cgroup that dies as a whole */
	u32 entered;   /* oom_kill_process() was seen; its end will be, too */
	u32 kept;      /* `event` waits for that end */
	struct oom_event event;
};

KT_MAP(kt_oom, LRU_HASH, 1024, u64, struct oom_progress);

static __always_inline struct oom_progress *begin_kill(u64 self)
{
	struct oom_progress nothing = {};

	bpf_map_update_elem(&kt_oom, &self, &nothing, BPF_ANY);
	return bpf_map_lookup_elem(&kt_oom, &self);
}

static __always_inline int on_entry(struct oom_control *oc)
{
	struct oom_progress *progress = begin_kill(bpf_get_current_pid_tgid());
	struct mem_cgroup *memcg = BPF_CORE_READ(oc, memcg);
	struct cgroup *cgroup;

	if (!progress)
		return 0;
	progress->entered = true;
	progress->domain = (u64)memcg;
	progress->event.asked = true;
	progress->event.gfp = BPF_CORE_READ(oc, gfp_mask);
	progress->event.order = BPF_CORE_READ(oc, order);
	progress->event.scope = memcg ? OOM_SCOPE_CGROUP : OOM_SCOPE_SYSTEM;
	progress->event.limit = KT_UNKNOWN_BYTES;
	progress->event.usage = KT_UNKNOWN_BYTES;
	if (!memcg)
		return 0;
	cgroup = BPF_CORE_READ(memcg, css.cgroup);
	progress->event.limit_cgroup = kt_id_of_cgroup(cgroup);
	kt_selected(cgroup, progress->event.limit_cgroup); /* described before it is referred to */
	progress->event.usage = BPF_CORE_READ(memcg, memory.usage.counter) * kt_page_size;
	progress->event.limit = BPF_CORE_READ(memcg, memory.max) * kt_page_size;
	return 0;
}

static __always_inline void send(struct oom_event *known)
{
	struct oom_event *event = kt_reserve(oom);

	if (!event)
		return;
	known->header.kind = event->header.kind;
	known->header.cpu = event->header.cpu;
	__builtin_memcpy(event, known, sizeof(*event));
	kt_submit(event);
}

static __always_inline int on_return(void)
{
	u64 self = bpf_get_current_pid_tgid();
	struct oom_progress *progress = bpf_map_lookup_elem(&kt_oom, &self);

	if (!progress)
		return 0;
	if (progress->kept)
		send(&progress->event);
	bpf_map_delete_elem(&kt_oom, &self);
	return 0;
}

SEC("fentry/oom_kill_process")
KT_TRAMPOLINE(on_oom_fentry, u64 *context)
{
	return on_entry((void *)context[0]);
}

SEC("fexit/oom_kill_process")
KT_TRAMPOLINE(on_oom_fexit, u64 *context)
{
	return on_return();
}

SEC("kprobe/oom_kill_process")
int BPF_KPROBE(on_oom_kprobe, struct oom_control *oc)
{
	return on_entry(oc);
}

SEC("kretprobe/oom_kill_process")
int BPF_KPROBE(on_oom_kretprobe)
{
	return on_return();
}

SEC("tp_btf/signal_generate")
int BPF_PROG(on_oom_signal, int signal, struct kernel_siginfo *info, struct task_struct *target)
{
	u64 self = bpf_get_current_pid_tgid();
	struct oom_progress *progress;

	if (signal != 9 || (u64)info != SEND_SIG_PRIV)
		return 0;
	progress = bpf_map_lookup_elem(&kt_oom, &self);
	if (!progress)
		progress = begin_kill(self);
	if (progress) {
		progress->victim = (u64)target;
		progress->signalled = bpf_ktime_get_boot_ns();
	}
	return 0;
}

/* Like mem_cgroup_get_oom_group() in mm/memcontrol.c. Version 1 has no groups and never sets the flag. */
static __always_inline u64 group_of(struct task_struct *victim, u64 domain)
{
	struct mem_cgroup *memcg = kt_memcg_of(victim);
	u64 group = 0;

	for (int level = 0; level < 32 && memcg; level++) {
		if (KT_CHOOSE(oom_group, bpf_core_field_exists(memcg->oom_group),
			      BPF_CORE_READ(memcg, oom_group), false))
			group = (u64)memcg;
		if ((u64)memcg == domain)
			break;
		memcg = kt_memcg_parent(memcg);
	}
	return group;
}

static __always_inline void read_memory(struct oom_memory *memory, struct task_struct *victim)
{
	struct mm_struct *mm = BPF_CORE_READ(victim, mm);
	struct signal_struct___oom *signal = (void *)BPF_CORE_READ(victim, signal);

	memory->anon = memory->file = memory->shmem = KT_UNKNOWN_BYTES;
	memory->unused = 0;
	memory->score_adj = BPF_CORE_READ(signal, oom_score_adj);
	if (!mm)
		return;
	memory->anon = KT_RSS(mm, KT_ANON_PAGES);
	memory->file = KT_RSS(mm, KT_FILE_PAGES);
	memory->shmem = KT_RSS(mm, KT_SHMEM_PAGES);
}

static __always_inline void send_own(struct task_struct *victim, u64 first)
{
	struct mem_cgroup *memcg = kt_memcg_of(victim);
	struct oom_own_event *own;

	if (!memcg)
		return;
	own = kt_reserve(oom_own);
	if (!own)
		return;
	own->first = first;
	own->cgroup = kt_id_of_cgroup(BPF_CORE_READ(memcg, css.cgroup));
	own->limit = BPF_CORE_READ(memcg, memory.max) * kt_page_size;
	own->usage = BPF_CORE_READ(memcg, memory.usage.counter) * kt_page_size;
	kt_submit(own);
}

static __always_inline int on_victim(struct oom_progress *progress, struct task_struct *victim)
{
	const u64 same_kill_ns = 1000000000;
	struct task_struct *trigger = (void *)bpf_get_current_task();
	u64 now = bpf_ktime_get_boot_ns(), first = progress->event.header.time;
	struct oom_event *known = &progress->event;
	struct oom_member_event *member;

	/* a second victim of one call, or, if its begin and end are not seen, of the same group shortly after */
	if (first && (progress->entered || (progress->group && now - first < same_kill_ns))) {
		struct kt_party party = {};

		if (!kt_wanted(victim, trigger))
			return 0;
		kt_refer(&party, victim);
		member = kt_reserve(oom_member);
		if (!member)
			return 0;
		member->first = first;
		member->victim = party;
		read_memory(&member->memory, victim);
		kt_submit(member);
		return 0;
	}
	if (!kt_wanted(victim, trigger))
		return 0;
	known->header.time = now;
	if (!progress->entered) {
		known->limit_cgroup = 0;
		known->limit = known->usage = KT_UNKNOWN_BYTES;
	}
	progress->group = group_of(victim, progress->domain);
	kt_refer(&known->victim, victim);
	kt_refer(&known->trigger, trigger);
	read_memory(&known->memory, victim);
	send_own(victim, now);
	if (progress->entered && progress->group)
		progress->kept = true;
	else
		send(known);
	return 0;
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct trace_event_raw_mark_victim {
	u32 uid;
};

#pragma clang attribute pop

KT_PRESENT(victim_task, "trace/events/oom.h", "TP_PROTO(struct task_struct *task, uid_t uid)");

/* The argument is the task since 72ba14deb40a ("mm: update mark_victim tracepoints fields"), also in stable
 * series; before that its pid. */
static __always_inline bool is_victim(u64 argument, u64 task)
{
	return KT_CHOOSE(victim_task,
			 bpf_core_field_exists(struct trace_event_raw_mark_victim, uid),
			 argument == task,
			 (u32)argument == (u32)BPF_CORE_READ((struct task_struct *)task, pid));
}

SEC("tp_btf/mark_victim")
KT_PROGRAM(on_mark_victim, u64 *context)
{
	const u64 a_moment_ns = 100000000;
	u64 self = bpf_get_current_pid_tgid();
	struct oom_progress *progress = bpf_map_lookup_elem(&kt_oom, &self);
	u64 task;

	if (!progress || !progress->victim)
		return 0;
	task = progress->victim;
	progress->victim = 0;
	if (!is_victim(context[0], task) ||
	    bpf_ktime_get_boot_ns() - progress->signalled > a_moment_ns)
		return 0;
	return on_victim(progress, (struct task_struct *)task);
}
