/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by all probes: the maps, the event header, selection by cgroup, and the descriptions of
 * processes and cgroups. Each is described once; events refer to it by number.
 *
 * Objects share maps by name: the loader creates a map with the first object and gives the same map to
 * the others.
 */
#ifndef KT_KTRACE_H
#define KT_KTRACE_H

#ifdef KT_BCC
#include "bcc.h"
#else
#include "core.h"
#endif
#include "kernel.h"
#include "compat.h"

/* Typedefs carry meaning: their names tell user space how to decode and show a member. */
typedef u64 kt_boot_ns;    /* nanoseconds since boot, CLOCK_BOOTTIME */
typedef u64 kt_process_id; /* a process_event, or 0: the kernel */
typedef u64 kt_cgroup_id;  /* kernfs id, with the number of its hierarchy in the top 16 bits */
typedef u32 kt_pid;
typedef u32 kt_uid;
typedef u8 kt_signal;
typedef char kt_comm[16];
typedef char kt_argv[1024]; /* NUL between arguments */

/* Records hold no more than this. */
enum kt_limits {
	KT_ANCESTORS = 16,
	KT_PATH_DEPTH = 24,
	KT_CGROUP_DEPTH = 16,
	KT_NAME = 256,       /* bytes of a path's name with its NUL */
	KT_PATH_BYTES = 512, /* a power of two, like the next */
	KT_CGROUP_PATH_BYTES = 4096,
};

KT_NAMES(kt_limits);

/* Names from the leaf to the root, NUL after each, with room for one that does not fit. */
typedef char kt_path[KT_PATH_BYTES + KT_NAME];
typedef char kt_cgroup_path[KT_CGROUP_PATH_BYTES + KT_NAME];

struct kt_header {
	u32 kind; /* one of the kt_kind_* below; the first word of every record */
	u32 cpu;
	kt_boot_ns time;
};

/* One side of an event. The process_event with this id comes before the event; if it was lost, pid and
 * tid are still known. */
struct kt_party {
	kt_process_id process;
	kt_pid pid;
	kt_pid tid;
};

struct kt_ancestor {
	kt_pid pid;
	kt_comm comm;
};

/*
 * A task is described with its first event, and again with a later one if its key has changed (exec,
 * uid, cgroup, comm). So a description always fits the moment of the event. `exe` is empty if there is
 * none. `argv_bytes` is the true size, which may be more than `argv` holds; it is 0 if argv could not be
 * read (the task is not current).
 */
struct process_event {
	struct kt_header header;
	kt_process_id process;
	kt_boot_ns start; /* of the process */
	kt_cgroup_id cgroup;
	kt_cgroup_id init_cgroup; /* of the process with pid 1 in its pid namespace; 0 = unknown */
	kt_boot_ns thread_start;
	kt_pid pid;
	kt_pid tid;
	kt_pid pid_in_pod; /* in the innermost pid namespace */
	kt_uid uid;
	u32 pid_level; /* depth of that namespace; 0 = the host's */
	u32 exec_id;
	u32 argv_bytes;
	u16 exe_bytes;
	u16 ancestors;
	u8 exe_deleted;
	u8 exe_whole; /* else the root end is missing */
	u8 kernel_thread;
	u8 unused;
	kt_comm comm;
	struct kt_ancestor ancestry[KT_ANCESTORS]; /* nearest first */
	kt_path exe;
	kt_argv argv;
};

/* A cgroup is described once, when it is made or when it is first seen. */
struct cgroup_event {
	struct kt_header header;
	kt_cgroup_id cgroup;
	u32 path_bytes;
	u32 path_whole;
	kt_cgroup_path path;
};

/* The kernel's two stand-ins for a siginfo pointer, include/linux/sched/signal.h. Compare the pointer as a
 * number: newer verifiers believe that a tracepoint never passes NULL, and drop the branch. */
#define SEND_SIG_NOINFO 0
#define SEND_SIG_PRIV 1

/* The loader numbers the kinds of the objects it loads; there is no list of them. */
KT_EVENT(process);
KT_EVENT(cgroup);

/* How selection works; written by the loader. */
enum kt_selection_mode {
	KT_ALL,    /* everything */
	KT_EITHER, /* one side is selected */
	KT_TARGET, /* the target is selected, whoever the sender is */
	KT_BOTH,   /* the target is selected as a target, and the sender as a sender */
};

/* The loader's verdict on a cgroup. Events of an undecided one pass, and user space filters them. */
enum kt_selected {
	KT_AS_TARGET = 1,
	KT_AS_SENDER = 2,
	KT_UNDECIDED = KT_AS_TARGET | KT_AS_SENDER,
};

KT_NAMES(kt_selection_mode);
KT_NAMES(kt_selected);

KT_SETTING(enum kt_selection_mode, kt_mode, KT_ALL);
KT_SETTING(bool, kt_by_pid, false);

KT_RING(kt_ring, 8 << 20);

/* Records that found no room in the ring, by kind. */
KT_MAP(kt_lost, PERCPU_ARRAY, 64, u32, u64);

KT_MAP(kt_cgroups, LRU_HASH, 16384, kt_cgroup_id, u32);

struct kt_process_key {
	u64 start;
	kt_cgroup_id cgroup;
	kt_pid tid;
	u32 exec_id;
	kt_uid uid;
	u32 unused;
	u64 comm[2];
};

KT_MAP(kt_processes, LRU_HASH, 4096, struct kt_process_key, kt_process_id);

/* The targets of --pid. */
KT_MAP(kt_pids, HASH, 1024, kt_pid, u8);

#define kt_reserve(name) \
	((struct name##_event *)kt_reserve_record(kt_kind_##name, sizeof(struct name##_event)))

/* A record that is a copy of `made` but for its header, or NULL. */
#define kt_reserve_copy(name, made)                              \
	({                                                       \
		struct name##_event *kt_copy = kt_reserve(name); \
		struct kt_header kt_own;                         \
		if (kt_copy) {                                   \
			kt_own = kt_copy->header;                \
			*kt_copy = *(made);                      \
			kt_copy->header = kt_own;                \
		}                                                \
		kt_copy;                                         \
	})

#define kt_submit(record) kt_submit_record(record, sizeof(*(record)))

#ifdef KT_SPOOL
#include "spool.h"
#else
static __always_inline void *kt_reserve_record(u32 kind, const u64 size)
{
	struct kt_header *header = bpf_ringbuf_reserve(&kt_ring, size, 0);
	u64 *lost;

	if (header) {
		header->kind = kind;
		header->cpu = bpf_get_smp_processor_id();
		header->time = bpf_ktime_get_boot_ns();
		return header;
	}
	lost = bpf_map_lookup_elem(&kt_lost, &kind);
	if (lost)
		__sync_fetch_and_add(lost, 1);
	return NULL;
}

/* Wakes the reader when the ring was empty, so that it sees a lone event at once, and again at every quarter
 * of a MiB, so that it drains a storm in time. In between the reader comes by itself. */
static __always_inline void kt_submit_record(void *record, const u64 size)
{
	const u64 step = 256 << 10, room = (size + 15) & ~7ULL;
	u64 waiting = bpf_ringbuf_query(&kt_ring, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(record,
			   (waiting & (step - 1)) <= room ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}
#endif

/* Functions on every event's path have two forms: one with `_as` that can use pointers whose type the verifier
 * knows (see KT_READ), and one under the plain name for all pointers. */
#define kt_id_of_cgroup(cgroup) kt_id_of_cgroup_as(cgroup, false)
#define kt_memory_v1(set) kt_memory_v1_as(set, false)
#define kt_cgroup_of(task) kt_cgroup_of_as(task, false)
#define kt_wanted(target, sender) kt_wanted_as(target, sender, false)
#define kt_refer(party, task) kt_refer_as(party, task, false)

static __always_inline kt_cgroup_id kt_id_of_cgroup_as(struct cgroup *cgroup, const bool typed)
{
	return KT_READ(typed, cgroup, kn, id) |
	       ((u64)KT_READ(typed, cgroup, root, hierarchy_id) << 48);
}

/* The cgroup of `task` in version 1's memory hierarchy, or NULL where version 2 has the controller. */
static __always_inline struct cgroup *kt_memory_v1_as(struct css_set *set, const bool typed)
{
	struct cgroup_subsys_state *css = NULL, **slot;
	struct cgroup *cgroup;

	if (!kt_has_memory_controller())
		return NULL;
	slot = (void *)set + bpf_core_field_offset(struct css_set, subsys) +
	       kt_memory_controller() * sizeof(*slot);
	if (typed && KT_TYPED)
		css = *slot;
	else
		bpf_core_read(&css, sizeof(css), slot);
	cgroup = KT_READ(typed, css, cgroup);
	return KT_READ(typed, cgroup, root, hierarchy_id) ? cgroup : NULL;
}

/* The cgroup that identifies a task's container. If version 1 has the memory controller, it is the cgroup
 * in that hierarchy, unless that is the root; else the one of version 2. */
static __always_inline struct cgroup *kt_cgroup_of_as(struct task_struct *task, const bool typed)
{
	struct css_set *set = KT_READ(typed, task, cgroups);
	struct cgroup *v1 = kt_memory_v1_as(set, typed);

	if (v1 && KT_READ(typed, v1, level))
		return v1;
	return KT_READ(typed, set, dfl_cgrp);
}

/* Appends one name to a path of `room` bytes, a power of two followed by KT_NAME bytes of slack; false if
 * it does not fit. The mask gives the verifier the same bounds of `used` in every round of the caller's
 * loop. */
static __always_inline bool kt_append_name(char *path, u32 *used, const u32 room, const void *name)
{
	long bytes = bpf_probe_read_kernel_str(path + *used, KT_NAME, name);
	u32 after = *used + bytes;

	if ((u32)bytes - 1 >= room - 1 - *used) /* an error, too, is a very large number */
		return false;
	asm volatile("" : "+r"(after));
	*used = after & (room - 1);
	return true;
}

/* Argument `index` of a BTF tracepoint or an fentry program. It is read from memory and not from the
 * register, so that the verifier knows nothing about it and keeps a test for NULL. */
static __always_inline void *kt_argument(const void *ctx, int index)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), ctx + 8 * index);
	return (void *)value;
}

/* A pointer as a plain number. The verifier tracks typed pointers and lets none into a global function;
 * after a read from memory it no longer knows the type. */
static __always_inline u64 kt_number(const void *pointer)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/*
 * Descriptions are rare, so they have functions of their own. These are global and take addresses as
 * numbers, so the verifier checks them once and not at every call, which halves the time to load.
 *
 * A path that is too deep loses its leaf end, never its root end: the outermost pod owns an event, and
 * must not be able to hide by making cgroups below.
 */
KT_GLOBAL int kt_describe_cgroup(u64 address)
{
	struct cgroup *cgroup = (void *)address;
	kt_cgroup_id id = kt_id_of_cgroup(cgroup);
	struct kernfs_node *node = kt_ancestor_node(cgroup, KT_CGROUP_DEPTH), *parent;
	u32 undecided = KT_UNDECIDED, used = 0;
	struct cgroup_event *event = kt_reserve(cgroup);

	if (!event)
		return 0;
	event->cgroup = id;
	for (int depth = 0; depth < KT_CGROUP_DEPTH; depth++) {
		parent = kt_kernfs_parent(node);
		if (!parent)
			break;
		if (!kt_append_name(event->path, &used, KT_CGROUP_PATH_BYTES,
				    BPF_CORE_READ(node, name)))
			break;
		node = parent;
	}
	event->path_bytes = used;
	event->path_whole = !kt_kernfs_parent(node);
	kt_submit(event);
	bpf_map_update_elem(&kt_cgroups, &id, &undecided, BPF_NOEXIST);
	return 0;
}

static __always_inline u32 kt_selected(struct cgroup *cgroup, kt_cgroup_id id)
{
	u32 *decided = bpf_map_lookup_elem(&kt_cgroups, &id);

	if (decided)
		return *decided;
	kt_describe_cgroup(kt_number(cgroup));
	return KT_UNDECIDED;
}

/* Whether an event that happened to `target` is wanted. `sender` is NULL where there is none. */
static __always_inline bool kt_wanted_as(struct task_struct *target, struct task_struct *sender,
					 const bool typed)
{
	struct cgroup *cgroup;
	bool as_target;

	if (kt_by_pid) {
		kt_pid pid = KT_READ(typed, target, tgid);

		if (!bpf_map_lookup_elem(&kt_pids, &pid))
			return false;
	}
	if (kt_mode == KT_ALL)
		return true;
	cgroup = kt_cgroup_of_as(target, typed);
	as_target = kt_selected(cgroup, kt_id_of_cgroup_as(cgroup, typed)) & KT_AS_TARGET;
	if (kt_mode == KT_TARGET || as_target != (kt_mode == KT_BOTH))
		return as_target;
	if (!sender)
		return false;
	/* most signals stay within a cgroup; then both sides give the same answer */
	if (kt_mode == KT_EITHER &&
	    KT_READ(typed, sender, cgroups) == KT_READ(typed, target, cgroups))
		return false;
	cgroup = kt_cgroup_of_as(sender, typed);
	return kt_selected(cgroup, kt_id_of_cgroup_as(cgroup, typed)) & KT_AS_SENDER;
}

/* The same for an event without a task that happened in `cgroup`; NULL if that is unknown, too. Undecided
 * events pass. */
static __always_inline bool kt_wanted_in(struct cgroup *cgroup)
{
	if (kt_by_pid)
		return false;
	if (kt_mode == KT_ALL || kt_mode == KT_EITHER || !cgroup)
		return true;
	return kt_selected(cgroup, kt_id_of_cgroup(cgroup)) & KT_AS_TARGET;
}

/* Takes the names of a path into `names` of KT_PATH_BYTES and KT_NAME, from the leaf to the root of its mount
 * namespace. False if the root end is missing. */
static __always_inline bool kt_walk_path(char *names, u32 *bytes, struct path *from)
{
	struct dentry *dentry = BPF_CORE_READ(from, dentry);
	struct vfsmount *vfsmount = BPF_CORE_READ(from, mnt);
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	bool whole = false;
	u32 used = 0;

	for (int depth = 0; dentry && depth < KT_PATH_DEPTH; depth++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);

		if (dentry == parent || dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (above == mount) {
				whole = true;
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
		} else {
			if (!kt_append_name(names, &used, KT_PATH_BYTES,
					    BPF_CORE_READ(dentry, d_name.name)))
				break;
			dentry = parent;
		}
	}
	*bytes = used;
	return whole;
}

static __always_inline void kt_read_path(struct process_event *event, struct path *from)
{
	u32 used;

	event->exe_whole = kt_walk_path(event->exe, &used, from);
	if (!used) /* a memfd lies in no directory, nor does a file that is a mount of its own */
		kt_append_name(event->exe, &used, KT_PATH_BYTES,
			       BPF_CORE_READ(from, dentry, d_name.name));
	event->exe_bytes = used;
}

static __always_inline void kt_read_exe(struct process_event *event, struct mm_struct *mm)
{
	struct file *exe = mm ? BPF_CORE_READ(mm, exe_file) : NULL;
	struct path *path;

	event->exe_bytes = 0;
	event->exe_deleted = 0;
	event->exe_whole = 0;
	event->unused = 0;
	if (!exe)
		return;
	path = (void *)exe + bpf_core_field_offset(struct file, f_path);
	kt_read_path(event, path);
	event->exe_deleted = !BPF_CORE_READ(path, dentry, d_hash.pprev);
}

/* Only the memory of `current` can be read from here. */
static __always_inline void kt_read_argv(struct process_event *event, struct mm_struct *mm)
{
	u64 start, bytes;
	u32 take;

	event->argv_bytes = 0;
	if (!mm || event->pid != bpf_get_current_pid_tgid() >> 32)
		return;
	start = BPF_CORE_READ(mm, arg_start);
	bytes = BPF_CORE_READ(mm, arg_end) - start;
	take = bytes < sizeof(event->argv) ? bytes : sizeof(event->argv);
	if (take && !bpf_probe_read_user(event->argv, take, (void *)start))
		event->argv_bytes = bytes;
}

static __always_inline void kt_read_pid_namespace(struct process_event *event,
						  struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	struct upid *innermost;
	struct task_struct *reaper;
	u32 level;

	event->pid_in_pod = 0;
	event->init_cgroup = 0;
	event->pid_level = 0;
	if (!pid)
		return;
	event->pid_level = level = BPF_CORE_READ(pid, level);
	innermost = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
		    level * bpf_core_type_size(struct upid);
	event->pid_in_pod = BPF_CORE_READ(innermost, nr);
	reaper = BPF_CORE_READ(innermost, ns, child_reaper);
	if (reaper)
		event->init_cgroup = kt_id_of_cgroup(kt_cgroup_of(reaper));
}

static __always_inline void kt_read_ancestry(struct process_event *event,
					     struct task_struct *leader)
{
	struct task_struct *task = leader;
	u32 count = 0;

	for (int level = 0; level < KT_ANCESTORS; level++) {
		struct task_struct *parent = BPF_CORE_READ(task, real_parent, group_leader);

		/* pid 0 is the idle task, which no tool shows as an ancestor */
		if (!parent || parent == task || !BPF_CORE_READ(parent, tgid))
			break;
		event->ancestry[level].pid = BPF_CORE_READ(parent, tgid);
		/* all bytes, because a string read would leave old memory of the ring behind its end */
		bpf_core_read(&event->ancestry[level].comm, sizeof(kt_comm), &parent->comm);
		task = parent;
		count++;
	}
	event->ancestors = count;
}

static __always_inline void kt_read_key(struct kt_process_key *key, struct task_struct *task,
					const bool typed)
{
	const struct cred *cred = KT_READ(typed, task, cred); /* RCU's: NULL to some verifiers */

	key->start = KT_READ(typed, task, start_boottime);
	key->cgroup = kt_id_of_cgroup_as(kt_cgroup_of_as(task, typed), typed);
	key->tid = KT_READ(typed, task, pid);
	key->exec_id = KT_READ(typed, task, self_exec_id);
	key->uid = cred ? KT_READ(typed, cred, uid.val) : 0;
	key->unused = 0;
	if (typed && KT_TYPED) {
		key->comm[0] = *(u64 *)&task->comm[0];
		key->comm[1] = *(u64 *)&task->comm[8];
	} else {
		bpf_core_read(key->comm, sizeof(key->comm), &task->comm);
	}
}

KT_GLOBAL u64 kt_describe_process(u64 address)
{
	const u32 PF_KTHREAD = 0x00200000;
	struct task_struct *task = (void *)address;
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct cgroup *cgroup = kt_cgroup_of(task);
	struct kt_process_key key;
	struct process_event *event;
	kt_process_id process;

	kt_read_key(&key, task, false);
	kt_selected(cgroup, key.cgroup); /* the cgroup is described before the process */
	event = kt_reserve(process);
	if (!event)
		return 0;
	/* unique for a session: a CPU makes at most one a nanosecond */
	process = event->header.time << 10 | (event->header.cpu & 1023);
	event->process = process;
	event->start = BPF_CORE_READ(leader, start_boottime);
	event->thread_start = key.start;
	event->cgroup = key.cgroup;
	event->pid = BPF_CORE_READ(task, tgid);
	event->tid = key.tid;
	event->uid = key.uid;
	event->exec_id = key.exec_id;
	event->kernel_thread = !!(BPF_CORE_READ(task, flags) & PF_KTHREAD);
	__builtin_memcpy(event->comm, key.comm, sizeof(event->comm));
	/* an exited leader has released its memory, but its threads still have it */
	if (!mm && event->pid == bpf_get_current_pid_tgid() >> 32)
		mm = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), mm);
	kt_read_pid_namespace(event, leader);
	kt_read_ancestry(event, leader);
	kt_read_argv(event, mm);
	kt_read_exe(event, event->kernel_thread ? NULL : mm);
	kt_submit(event);
	bpf_map_update_elem(&kt_processes, &key, &process, BPF_ANY);
	return process;
}

/* Fills `party` with the description's id of `task`. If this is its first event, describes it first. */
static __always_inline void kt_refer_as(struct kt_party *party, struct task_struct *task,
					const bool typed)
{
	struct kt_process_key key;
	kt_process_id *known;

	kt_read_key(&key, task, typed);
	party->pid = KT_READ(typed, task, tgid);
	party->tid = key.tid;
	known = bpf_map_lookup_elem(&kt_processes, &key);
	party->process = known ? *known : kt_describe_process(kt_number(task));
}

#endif
