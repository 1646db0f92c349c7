// SPDX-License-Identifier: GPL-2.0
/*
 * System calls that fail because a file system is full or has become read-only.
 *
 * A program on the end of system calls slows down every call of the node, whatever it looks at. So user space
 * attaches it only while a file system is in such a state, and for some seconds after (AttachPoint.armed). The
 * other records are user space's own: the states, whose files are the largest, and where paths lead.
 */
#include "ktrace.h"

typedef u32 kt_disk_device; /* major << 20 | minor, as the kernel has it; 0: not known */

enum disk_bounds {
	KT_DISK_NAME = 256,
	KT_DISK_CALLS = 512,
};

/* How a system call names its file. User space writes the table of calls. */
enum disk_call {
	KT_CALL_OTHER,
	KT_CALL_FD,        /* the first argument is a descriptor */
	KT_CALL_THIRD_FD,  /* the third one is */
	KT_CALL_PATH,      /* the first argument is a path */
	KT_CALL_SECOND,    /* the second one is */
	KT_CALL_AT,        /* a directory's descriptor, then a path */
	KT_CALL_THIRD_AT,  /* the same behind one argument */
	KT_CALL_FOURTH_AT, /* the same behind two */
};

/* The states of a file system. */
enum disk_flags {
	KT_DISK_NO_BLOCKS = 1,
	KT_DISK_NO_INODES = 2,
	KT_DISK_READ_ONLY = 4, /* it had been writable */
};

KT_NAMES(disk_bounds);
KT_NAMES(disk_call);
KT_NAMES(disk_flags);

struct disk_failure_event {
	struct kt_header header;
	struct kt_party process;
	u32 error; /* errno, positive */
	u32 call;
	kt_disk_device device; /* of the file, or of the directory from which `name` leads */
	u32 path_bytes;
	u8 path_whole;
	u8 absolute; /* `name` leads from the root */
	u8 unused[6];
	char type[16];           /* the file system's, at `device` */
	char name[KT_DISK_NAME]; /* as the caller gave it; empty: the call has a descriptor */
	kt_path path;            /* of the file, or of that directory */
};

/* How a file system is. */
struct disk_state_event {
	struct kt_header header;
	kt_cgroup_id cgroup; /* 0: a file system is in no pod */
	u64 size;
	u64 free; /* for others than root */
	u64 inodes;
	u64 free_inodes;
	kt_disk_device device;
	u32 flags; /* enum disk_flags */
	u8 changed;
	u8 unused[7];
	char type[16];
	char mount[KT_DISK_NAME];
};

/* An overlay, and the file system that its files take their room from. */
struct disk_overlay_event {
	struct kt_header header;
	kt_disk_device device;
	kt_disk_device below;
};

/* Where a path that a process gave leads. */
struct disk_place_event {
	struct kt_header header;
	kt_pid pid;
	kt_disk_device device;
	char type[16];
	char name[KT_DISK_NAME];
};

/* A large file that a process has open, deleted or for writing, on a full file system. */
struct disk_file_event {
	struct kt_header header;
	struct kt_party process;
	u64 bytes;
	kt_disk_device device;
	u32 descriptor;
	u8 deleted;
	u8 writes;
	u8 unused[6];
	char path[KT_DISK_NAME];
};

/* Failures of a process that made no records of their own. */
struct disk_more_event {
	struct kt_header header;
	u64 count;
	kt_pid pid;
	u32 error;
	kt_disk_device device;
	u32 unused;
};

KT_EVENT(disk_failure);
KT_EVENT(disk_more);
KT_EVENT(disk_state);
KT_EVENT(disk_overlay);
KT_EVENT(disk_place);
KT_EVENT(disk_file);

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct dentry___disk {
	struct super_block *d_sb;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct task_struct___disk {
	struct files_struct *files;
	struct fs_struct *fs;
};

/* libbpf's own headers have a pt_regs___arm64 */
struct pt_regs___x86_call {
	unsigned long di, si, dx, r10, orig_ax;
};

struct pt_regs___arm64_call {
	u64 regs[31];
	u64 orig_x0;
	s32 syscallno;
};

#pragma clang attribute pop

/* A process that tries again and again makes so many records a second. The others are counted, and user space tells
 * how many they are. */
#define KT_DISK_RECORDS 32

struct kt_failing {
	kt_pid pid;
	u32 error;
	kt_disk_device device;
	u32 unused;
};

struct kt_failed {
	u64 second; /* when its records of this second began */
	u64 told;
	u64 count; /* the others: never decreases */
};

KT_MAP(kt_disk_failing, LRU_HASH, 1024, struct kt_failing, struct kt_failed);

/* BCC has no such settings, and does not attach what is armed. */
#ifdef KT_CHECKS_ARGUMENTS
const volatile u8 kt_disk_calls[KT_DISK_CALLS] = {};

/* The number of a system call and its arguments, which the registers still hold at its end. */
struct kt_call {
	u32 number;
	u64 arguments[4];
};

static __always_inline void read_call_of(struct kt_call *call, void *regs)
{
#if defined(__TARGET_ARCH_x86)
	struct pt_regs___x86_call *now = regs;

	call->number = BPF_CORE_READ(now, orig_ax);
	call->arguments[0] = BPF_CORE_READ(now, di);
	call->arguments[1] = BPF_CORE_READ(now, si);
	call->arguments[2] = BPF_CORE_READ(now, dx);
	call->arguments[3] = BPF_CORE_READ(now, r10);
#elif defined(__TARGET_ARCH_arm64)
	struct pt_regs___arm64_call *now = regs;

	call->number = BPF_CORE_READ(now, syscallno);
	call->arguments[0] = BPF_CORE_READ(now, orig_x0);
	call->arguments[1] = BPF_CORE_READ(now, regs[1]);
	call->arguments[2] = BPF_CORE_READ(now, regs[2]);
	call->arguments[3] = BPF_CORE_READ(now, regs[3]);
#else
	call->number = ~0;
#endif
}

static __always_inline struct file *file_of(struct task_struct *task, u64 descriptor)
{
	struct fdtable *table = BPF_CORE_READ((struct task_struct___disk *)task, files, fdt);
	struct file *file = NULL, **slots;

	if (!table || descriptor >= BPF_CORE_READ(table, max_fds))
		return NULL;
	slots = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), slots + descriptor);
	return file;
}

static __always_inline struct path *path_of_file(struct file *file)
{
	return file ? (void *)file + bpf_core_field_offset(struct file, f_path) : NULL;
}

/* The directory from which a path leads. */
static __always_inline struct path *base_of(struct task_struct *task, bool absolute, u64 directory)
{
	const s32 AT_FDCWD = -100;
	struct fs_struct *fs = BPF_CORE_READ((struct task_struct___disk *)task, fs);

	if (absolute)
		return fs ? (void *)fs + bpf_core_field_offset(struct fs_struct, root) : NULL;
	if ((s32)directory == AT_FDCWD)
		return fs ? (void *)fs + bpf_core_field_offset(struct fs_struct, pwd) : NULL;
	return path_of_file(file_of(task, (u32)directory));
}

static __always_inline bool is_told(u32 error, kt_disk_device device)
{
	const u64 second = 1000000000;
	struct kt_failing key = {
		.pid = bpf_get_current_pid_tgid() >> 32,
		.error = error,
		.device = device,
	};
	struct kt_failed first = { .second = bpf_ktime_get_boot_ns(), .told = 1 };
	struct kt_failed *known = bpf_map_lookup_elem(&kt_disk_failing, &key);

	if (!known) {
		bpf_map_update_elem(&kt_disk_failing, &key, &first, BPF_ANY);
		return true;
	}
	if (first.second - known->second >= second) {
		known->second = first.second;
		known->told = 0;
	}
	if (known->told >= KT_DISK_RECORDS) {
		__sync_fetch_and_add(&known->count, 1);
		return false;
	}
	known->told++;
	return true;
}

KT_GLOBAL int tell_disk_failure(u64 regs, u32 error)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct disk_failure_event *event;
	struct kt_party process = {};
	struct dentry___disk *dentry;
	struct path *path = NULL;
	struct super_block *sb;
	struct kt_call call;
	u64 at = 0, directory = (u64)-100;
	kt_disk_device device;
	bool absolute = false;
	char first = 0;
	u32 used = 0;
	u8 how;

	read_call_of(&call, (void *)regs);
	if (call.number >= KT_DISK_CALLS)
		return 0;
	how = kt_disk_calls[call.number & (KT_DISK_CALLS - 1)];
	if (how == KT_CALL_OTHER || !kt_wanted(current, NULL))
		return 0;
	if (how == KT_CALL_FD) {
		path = path_of_file(file_of(current, (u32)call.arguments[0]));
	} else if (how == KT_CALL_THIRD_FD) {
		path = path_of_file(file_of(current, (u32)call.arguments[2]));
	} else {
		at = call.arguments[how == KT_CALL_PATH ? 0 : 1];
		if (how == KT_CALL_AT) {
			directory = call.arguments[0];
		} else if (how == KT_CALL_THIRD_AT) {
			directory = call.arguments[1];
			at = call.arguments[2];
		} else if (how == KT_CALL_FOURTH_AT) {
			directory = call.arguments[2];
			at = call.arguments[3];
		}
		bpf_probe_read_user(&first, sizeof(first), (void *)at);
		absolute = first == '/';
		path = base_of(current, absolute, directory);
	}
	dentry = (void *)BPF_CORE_READ(path, dentry);
	sb = BPF_CORE_READ(dentry, d_sb);
	device = BPF_CORE_READ(sb, s_dev);
	if (!is_told(error, device))
		return 0;
	kt_refer(&process, current);
	event = kt_reserve(disk_failure);
	if (!event)
		return 0;
	event->process = process;
	event->error = error;
	event->call = call.number;
	event->device = device;
	event->absolute = absolute;
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	__builtin_memset(event->type, 0, sizeof(event->type));
	__builtin_memset(event->name, 0, sizeof(event->name));
	bpf_probe_read_kernel_str(event->type, sizeof(event->type),
				  BPF_CORE_READ(sb, s_type, name));
	if (at)
		bpf_probe_read_user_str(event->name, sizeof(event->name), (void *)at);
	event->path_whole = kt_walk_path(event->path, &used, path);
	event->path_bytes = used;
	kt_submit(event);
	return 0;
}

SEC("tp_btf/sys_exit")
KT_PROGRAM(on_sys_exit, u64 *ctx)
{
	const int ENOSPC = 28, EROFS = 30, EDQUOT = 122;
	long error = -(long)ctx[1];

	if (error != ENOSPC && error != EROFS && error != EDQUOT)
		return 0;
	return tell_disk_failure(kt_number((void *)ctx[0]), error);
}
#endif
