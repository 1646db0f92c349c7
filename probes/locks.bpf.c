// SPDX-License-Identifier: GPL-2.0
/*
 * flock(2) of xtables.lock, which all programs that change iptables' rules take in turns: who waits, and for whom.
 *
 * The tracepoint runs for every flock(2) on the node, and for every last close of a file that was locked, so the
 * file's name is compared first. A wait that ends without the lock has no tracepoint of its own: the file is closed
 * then, and that is seen as long as somebody holds the lock.
 */
#include "network.h"
#ifdef KT_BCC
#if __has_include(<linux/filelock.h>)
#include <linux/filelock.h>
#endif
#endif

enum lock_outcome {
	KT_LOCK_WAITING,  /* it begins to wait */
	KT_LOCK_ACQUIRED, /* after a wait */
	KT_LOCK_REFUSED,  /* the caller had asked not to wait */
	KT_LOCK_GIVEN_UP, /* its wait has ended without the lock */
	KT_LOCK_OTHER_FILE, /* acquired, while `holder` has used another file of that name for the same rules */
};

KT_NAMES(lock_outcome);

struct file_lock_event {
	struct kt_header header;
	struct kt_party process;
	struct kt_party
		holder; /* all zero: not known; without `process` it took the lock before the start */
	kt_cgroup_id holder_cgroup;
	u64 waited; /* ns */
	u64 held;   /* ns since `holder` took it; 0: not known */
	u64 inode;
	u64 other_inode; /* of KT_LOCK_OTHER_FILE */
	u32 device;
	u32 other_device;
	u32 path_bytes;
	u8 path_whole;
	u8 outcome; /* enum lock_outcome */
	u8 unused[2];
	kt_path path;
};

/* The process that took a lock before the start. Made in user space. */
struct lock_holder_event {
	struct kt_header header;
	kt_process_id process;
	kt_pid pid;
	u32 unused;
};

KT_EVENT(file_lock);
KT_EVENT(lock_holder);

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

struct file_lock_context {
	struct list_head flc_flock;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
	struct file_lock_context *i_flctx;
};

struct file_lock_core {
	struct list_head flc_list;
	unsigned char flc_type;
	int flc_pid;
	struct file *flc_file;
};

struct file_lock {
	struct file_lock_core c;
};

struct file_lock___before {
	struct list_head fl_list;
	unsigned char fl_type;
	int fl_pid;
	struct file *fl_file;
};

#pragma clang attribute pop

/* The members that flock(2) and leases share moved to a struct of their own with a69ce85ec9af ("filelock: split
 * common fields into struct file_lock_core", 6.9). */
KT_PRESENT(lock_core, "linux/filelock.h", "struct file_lock_core {");

#define KT_OF_LOCK(lock, member)                                                \
	KT_CHOOSE(lock_core, bpf_core_field_exists(((struct file_lock *)0)->c), \
		  BPF_CORE_READ((struct file_lock *)(lock), c.flc_##member),    \
		  BPF_CORE_READ((struct file_lock___before *)(lock), fl_##member))

enum {
	KT_UNLOCK = 2,           /* F_UNLCK */
	KT_LOCK_DEFERRED = 1,    /* FILE_LOCK_DEFERRED: it waits */
	KT_LOCK_TRY_AGAIN = -11, /* -EAGAIN */
};

/* Also files of other names. */
KT_SETTING(bool, kt_lock_every, false);
/* The host's network namespace, whose rules the lock is about; 0: not known. */
KT_SETTING(u32, kt_lock_host_netns, 0);

struct kt_lock_file {
	u64 inode;
	u32 device;
	u32 unused;
};

struct kt_lock_holder {
	struct kt_party party;
	kt_cgroup_id cgroup;
	u64 since;
	u64 file; /* through which it was locked; 0: it is not held any more */
	struct kt_lock_file of;
};

KT_MAP(kt_lock_holders, LRU_HASH, 1024, struct kt_lock_file, struct kt_lock_holder);
/* Who waits, by `struct file`. */
struct kt_lock_wait {
	u64 since;
	u64 thread; /* as bpf_get_current_pid_tgid() has it */
};

KT_MAP(kt_lock_waits, LRU_HASH, 4096, u64, struct kt_lock_wait);
/* Who has locked last for the host's rules, at 0. */
KT_MAP(kt_lock_last, ARRAY, 1, u32, struct kt_lock_holder);
/* Too large for the stack. */
KT_MAP(kt_lock_scratch, PERCPU_ARRAY, 1, u32, struct kt_lock_holder);
/* The other files that were told. */
KT_MAP(kt_lock_told, LRU_HASH, 1024, struct kt_lock_file, u8);

static __always_inline bool is_xtables_lock(struct file *file)
{
	/* "xtables." and "lock", as numbers */
	const u64 first = 0x2e73656c62617478, second = 0x6b636f6c;
	u64 name[2] = {};

	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return name[0] == first && name[1] == second;
}

static __always_inline void read_lock_file(struct kt_lock_file *of, struct inode *inode)
{
	of->inode = BPF_CORE_READ(inode, i_ino);
	of->device = BPF_CORE_READ(inode, i_sb, s_dev);
	of->unused = 0;
}

/* Whether events of a process are wanted that runs into a lock of `holder`. */
static __always_inline bool is_lock_wanted(struct task_struct *current,
					   struct kt_lock_holder *holder)
{
	u32 *decided;

	if (kt_wanted(current, NULL))
		return true;
	if (!holder || kt_by_pid || kt_mode != KT_EITHER)
		return false;
	decided = bpf_map_lookup_elem(&kt_cgroups, &holder->cgroup);
	return decided && *decided & KT_AS_SENDER;
}

/* Who took the lock before the start: the kernel keeps the number of the process. */
static __always_inline kt_pid holder_in_kernel(struct inode *inode)
{
	struct list_head *head = (void *)BPF_CORE_READ(inode, i_flctx);
	struct list_head *first;
	u64 offset;

	if (!head)
		return 0;
	head = (void *)head + bpf_core_field_offset(struct file_lock_context, flc_flock);
	first = BPF_CORE_READ(head, next);
	if (!first || first == head)
		return 0;
	offset = KT_CHOOSE(lock_core, bpf_core_field_exists(((struct file_lock *)0)->c),
			   bpf_core_field_offset(struct file_lock, c) +
				   bpf_core_field_offset(struct file_lock_core, flc_list),
			   bpf_core_field_offset(struct file_lock___before, fl_list));
	return KT_OF_LOCK((void *)first - offset, pid);
}

KT_GLOBAL int tell_lock(u64 inode_address, u64 file_address, u32 outcome, u64 waited)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct file *file = (void *)file_address;
	struct inode *inode = (void *)inode_address;
	struct kt_lock_holder *holder = NULL;
	struct file_lock_event *event;
	struct kt_party process;
	struct kt_lock_file of;
	u32 zero = 0, used;

	read_lock_file(&of, inode);
	if (outcome == KT_LOCK_OTHER_FILE)
		holder = bpf_map_lookup_elem(&kt_lock_last, &zero);
	else if (outcome != KT_LOCK_ACQUIRED)
		holder = bpf_map_lookup_elem(&kt_lock_holders, &of);
	if (!is_lock_wanted(current, holder))
		return 0;
	kt_refer(&process, current);
	event = kt_reserve(file_lock);
	if (!event)
		return 0;
	event->process = process;
	event->waited = waited;
	event->inode = of.inode;
	event->device = of.device;
	event->outcome = outcome;
	__builtin_memset(&event->holder, 0, sizeof(event->holder));
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	event->holder_cgroup = 0;
	event->held = 0;
	event->other_inode = 0;
	event->other_device = 0;
	if (holder && holder->since) {
		event->holder = holder->party;
		event->holder_cgroup = holder->cgroup;
		event->held = bpf_ktime_get_ns() - holder->since;
		event->other_inode = holder->of.inode;
		event->other_device = holder->of.device;
	} else if (outcome != KT_LOCK_ACQUIRED) {
		event->holder.pid = event->holder.tid = holder_in_kernel(inode);
	}
	event->path_whole = kt_walk_path(event->path, &used,
					 (void *)file + bpf_core_field_offset(struct file, f_path));
	event->path_bytes = used;
	kt_submit(event);
	return 0;
}

/* The functions below call nothing that calls more: kernels before 6.13 give all calls together 512 bytes of
 * stack. They are rare, and take their arguments as numbers, so that the verifier checks them once. */

KT_GLOBAL int begin_wait(u64 file)
{
	struct kt_lock_wait wait = {};

	if (bpf_map_lookup_elem(&kt_lock_waits, &file))
		return false;
	wait.since = bpf_ktime_get_ns();
	wait.thread = bpf_get_current_pid_tgid();
	bpf_map_update_elem(&kt_lock_waits, &file, &wait, BPF_ANY);
	return true;
}

/* For how long the process has waited, in ns; 0: it has not. Any of its threads may close the file. An end that was
 * not seen leaves its wait to the next file at that address. */
KT_GLOBAL u64 end_wait(u64 file, u32 by_thread)
{
	struct kt_lock_wait *wait = bpf_map_lookup_elem(&kt_lock_waits, &file);
	u64 thread = bpf_get_current_pid_tgid(), waited = 0;

	if (!wait)
		return 0;
	if (by_thread ? wait->thread == thread : wait->thread >> 32 == thread >> 32)
		waited = bpf_ktime_get_ns() - wait->since;
	bpf_map_delete_elem(&kt_lock_waits, &file);
	return waited;
}

/* True if another file of that name was locked last for the host's rules, and that was not told: the lock is for one
 * set of rules only if all that change them lock the same file. */
KT_GLOBAL int keep_holder(u64 inode, u64 file, u32 xtables)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct kt_lock_holder *holder, *last;
	u32 zero = 0;
	u8 yes = 1;

	holder = bpf_map_lookup_elem(&kt_lock_scratch, &zero);
	if (!holder)
		return false;
	read_lock_file(&holder->of, (void *)inode);
	kt_refer(&holder->party, current);
	holder->cgroup = kt_id_of_cgroup(kt_cgroup_of(current));
	holder->since = bpf_ktime_get_ns();
	holder->file = file;
	bpf_map_update_elem(&kt_lock_holders, &holder->of, holder, BPF_ANY);
	if (!xtables || !kt_lock_host_netns ||
	    kt_netns_of(kt_net_of_task(current)) != kt_lock_host_netns)
		return false;
	last = bpf_map_lookup_elem(&kt_lock_last, &zero);
	if (!last || !last->since ||
	    (last->of.inode == holder->of.inode && last->of.device == holder->of.device)) {
		bpf_map_update_elem(&kt_lock_last, &zero, holder, BPF_ANY);
		return false;
	}
	if (!bpf_map_update_elem(&kt_lock_told, &holder->of, &yes, BPF_NOEXIST))
		return true;
	bpf_map_update_elem(&kt_lock_last, &zero, holder, BPF_ANY);
	return false;
}

/* The one that `keep_holder` has kept is the last now. */
KT_GLOBAL int keep_last(u64 file)
{
	struct kt_lock_holder *holder;
	u32 zero = 0;

	holder = bpf_map_lookup_elem(&kt_lock_scratch, &zero);
	if (holder && holder->file == file)
		bpf_map_update_elem(&kt_lock_last, &zero, holder, BPF_ANY);
	return 0;
}

KT_GLOBAL int forget_holder(u64 inode, u64 file)
{
	struct kt_lock_holder *holder;
	struct kt_lock_file of;

	read_lock_file(&of, (void *)inode);
	holder = bpf_map_lookup_elem(&kt_lock_holders, &of);
	if (holder && holder->file == file)
		bpf_map_delete_elem(&kt_lock_holders, &of);
	return 0;
}

SEC("tp_btf/flock_lock_inode")
KT_PROGRAM(on_flock, u64 *ctx)
{
	u64 inode = kt_number(kt_argument(ctx, 0)), waited, file;
	void *lock = kt_argument(ctx, 1);
	struct file *locked = KT_OF_LOCK(lock, file);
	bool xtables = is_xtables_lock(locked);
	int result = ctx[2];

	if (!xtables && !kt_lock_every)
		return 0;
	file = kt_number(locked);
	if (KT_OF_LOCK(lock, type) ==
	    KT_UNLOCK) { /* by the holder, or the last close(2) of one who waited */
		waited = end_wait(file, false);
		if (waited)
			tell_lock(inode, file, KT_LOCK_GIVEN_UP, waited);
		return forget_holder(inode, file);
	}
	if (result == KT_LOCK_TRY_AGAIN)
		return tell_lock(inode, file, KT_LOCK_REFUSED, 0);
	if (result == KT_LOCK_DEFERRED)
		return begin_wait(file) ? tell_lock(inode, file, KT_LOCK_WAITING, 0) : 0;
	if (result)
		return 0;
	waited = end_wait(file, true);
	if (waited)
		tell_lock(inode, file, KT_LOCK_ACQUIRED, waited);
	if (keep_holder(inode, file, xtables)) {
		tell_lock(inode, file, KT_LOCK_OTHER_FILE, 0);
		keep_last(file);
	}
	return 0;
}
