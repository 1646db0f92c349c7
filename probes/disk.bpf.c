// SPDX-License-Identifier: GPL-2.0
/*
 * System calls that fail for a file system: it is full, has become read-only, has an error, keeps a file that must not
 * change, or is in use. Besides: errors of disks, who writes, and the calls that fail in a container's start.
 *
 * A program on the end of system calls slows down every call of the node, whatever it looks at. So user space
 * attaches it only while a file system is in a bad state, and for some seconds after (AttachPoint.armed). Where
 * functions can be traced, a few rare calls are watched always, by their functions. The programs that count who writes
 * run while a file system is nearly full. The other records are user space's own: the states, whose files are the
 * largest, who holds a mount, and where paths lead.
 */
#include <linux/ptrace.h> /* struct pt_regs */
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
	KT_CALL_MOUNT,     /* two paths: the first one for a bind mount, else the second */
	KT_CALL_NONE,      /* it is about no file */
	KT_CALL_WAYS = 15,
	KT_CALL_REMOVES = 16, /* it fails for a file that must not change, and for a mount in use */
	KT_CALL_SYNCS = 32,   /* it tells of earlier writes that failed */
	KT_CALL_STARTS = 64,  /* a runtime makes it to prepare a container */
};

/* What user space knows of the place to which a path leads. */
enum disk_marks {
	KT_MARK_IMMUTABLE = 1,
	KT_MARK_APPEND = 2,
	KT_MARK_BELOW_IMMUTABLE = 4, /* its directory is */
	KT_MARK_BELOW_APPEND = 8,
	KT_MARK_MOUNT_POINT = 16,
	KT_MARK_SEARCHED = 32, /* the records of who holds the mount came before */
};

/* How a mount is held. */
enum disk_hold {
	KT_HOLD_OPEN,
	KT_HOLD_CWD,
	KT_HOLD_ROOT,
	KT_HOLD_MAPPED,
	KT_HOLD_MOUNT, /* another mount lies below it */
};

/* Where the error of a disk was seen. */
enum disk_reporter {
	KT_BY_DEVICE,
	KT_BY_WRITEBACK, /* what programs had written was lost */
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
KT_NAMES(disk_marks);
KT_NAMES(disk_hold);
KT_NAMES(disk_reporter);

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

/* A runtime's call failed while it prepared a container. */
struct start_failure_event {
	struct kt_header header;
	struct kt_party process;
	u32 error;
	u32 call;
	u32 path_bytes;
	u8 path_whole;
	u8 absolute;
	u8 unused[2];
	char name[KT_DISK_NAME];
	kt_path path;
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
	u32 marks; /* enum disk_marks */
	u32 unused;
	char type[16];
	char name[KT_DISK_NAME];
};

/* What keeps a mount from being unmounted. */
struct disk_holder_event {
	struct kt_header header;
	struct kt_party process; /* none: a mount below it */
	kt_pid pid;              /* who gave the path `name` to unmount */
	u32 how;                 /* enum disk_hold */
	char name[KT_DISK_NAME];
	char path[KT_DISK_NAME]; /* of what is held */
};

/* A disk failed. No process is known. */
struct disk_error_event {
	struct kt_header header;
	kt_cgroup_id cgroup; /* 0: a disk is in no pod */
	u64 sector;
	u64 bytes;
	kt_disk_device device;
	u32 error; /* KT_BY_DEVICE: a blk_status_t, include/linux/blk_types.h; else errno */
	u8 reporter;
	u8 writes;
	u8 unused[6];
};

/* How much a cgroup has written to a file system in the last `seconds`. */
struct disk_writer_event {
	struct kt_header header;
	kt_cgroup_id cgroup;
	u64 bytes;
	u64 inodes;
	u32 seconds;
	kt_disk_device device;
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
KT_EVENT(start_failure);
KT_EVENT(disk_more);
KT_EVENT(disk_state);
KT_EVENT(disk_overlay);
KT_EVENT(disk_place);
KT_EVENT(disk_file);
KT_EVENT(disk_holder);
KT_EVENT(disk_error);
KT_EVENT(disk_writer);

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct dentry___disk {
	struct super_block *d_sb;
};

struct inode___disk {
	struct super_block *i_sb;
};

struct address_space___disk {
	struct inode___disk *host;
	u32 wb_err;
};

struct file___disk {
	struct path f_path;
	u32 f_wb_err;
};

struct block_device___disk {
	u32 bd_dev;
};

struct bio___disk {
	struct block_device___disk *bi_bdev;
};

struct request___disk {
	struct bio___disk *bio;
	unsigned int cmd_flags;
	u64 __sector;
};

struct folio___disk {
	unsigned int _nr_pages;
	unsigned long _flags_1;
};

enum pageflags {
	PG_head = 0x7f, /* the real number comes from the running kernel */
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

#if defined(__TARGET_ARCH_x86)
struct pt_regs___call {
	unsigned long di, si, dx, r10, orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs___call {
	u64 regs[31];
	u64 orig_x0;
	s32 syscallno;
};
#endif

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

struct kt_writer {
	kt_cgroup_id cgroup;
	kt_disk_device device;
	u32 unused;
};

struct kt_written {
	u64 bytes;
	u64 inodes;
};

KT_MAP(kt_disk_writers, LRU_HASH, 4096, struct kt_writer, struct kt_written);

/* BCC has no such settings, and does not attach what is armed. */
#ifdef KT_CHECKS_ARGUMENTS
const volatile u8 kt_disk_calls[KT_DISK_CALLS] = {};

enum {
	EPERM = 1,
	EIO = 5,
	EBUSY = 16,
	ENOSPC = 28,
	EROFS = 30,
	EDQUOT = 122,
	MAX_ERRNO = 4095,
};

/* Calls that the programs on their functions tell, so that the program on the end of all calls does not. */
KT_MAP(kt_disk_by_function, ARRAY, 512, u32, u8);

/* Threads whose call to sync a file is told already, and its error. */
KT_MAP(kt_disk_synced, LRU_HASH, 1024, u32, u32);

/* The number of a system call and its arguments, which the registers still hold at its end. */
struct kt_call {
	u32 number;
	u64 arguments[4];
};

static __always_inline void read_call_of(struct kt_call *call, void *regs)
{
#if defined(__TARGET_ARCH_x86)
	struct pt_regs___call *now = regs;

	call->number = BPF_CORE_READ(now, orig_ax);
	call->arguments[0] = BPF_CORE_READ(now, di);
	call->arguments[1] = BPF_CORE_READ(now, si);
	call->arguments[2] = BPF_CORE_READ(now, dx);
	call->arguments[3] = BPF_CORE_READ(now, r10);
#elif defined(__TARGET_ARCH_arm64)
	struct pt_regs___call *now = regs;

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

static __always_inline bool is_told(kt_pid pid, u32 error, kt_disk_device device)
{
	const u64 second = 1000000000;
	struct kt_failing key = {
		.pid = pid,
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

/* Whether `current` is runc's process that becomes the container's first one. */
static __always_inline bool prepares_container(void)
{
	kt_comm comm = {};

	bpf_get_current_comm(comm, sizeof(comm));
	return comm[0] == 'r' && comm[1] == 'u' && comm[2] == 'n' && comm[3] == 'c' &&
	       comm[4] == ':' && comm[5] == '[';
}

static __always_inline bool is_of_file_system(u32 error)
{
	return error == ENOSPC || error == EROFS || error == EDQUOT || error == EIO;
}

static __always_inline bool is_of_removal(u32 error)
{
	return error == EPERM || error == EBUSY;
}

/* Whether the tracepoint of writeback errors has told of this call of the thread. */
static __always_inline bool is_synced(u32 error)
{
	u32 tid = bpf_get_current_pid_tgid();
	u32 *told = bpf_map_lookup_elem(&kt_disk_synced, &tid);
	bool same = told && *told == error;

	if (told)
		bpf_map_delete_elem(&kt_disk_synced, &tid);
	return same;
}

static __always_inline void submit_failure(struct task_struct *task, u32 error, struct path *path,
					   u32 number, u64 at, bool absolute)
{
	struct dentry___disk *dentry = (void *)BPF_CORE_READ(path, dentry);
	struct super_block *sb = BPF_CORE_READ(dentry, d_sb);
	kt_disk_device device = BPF_CORE_READ(sb, s_dev);
	struct disk_failure_event *event;
	struct kt_party process = {};
	u32 used = 0;

	if (!is_told(bpf_get_current_pid_tgid() >> 32, error, device))
		return;
	kt_refer(&process, task);
	event = kt_reserve(disk_failure);
	if (!event)
		return;
	event->process = process;
	event->error = error;
	event->call = number;
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
}

static __always_inline void submit_start(struct task_struct *task, u32 error, struct path *path,
					 u32 number, u64 at, bool absolute)
{
	struct start_failure_event *event;
	struct kt_party process = {};
	u32 used = 0;

	kt_refer(&process, task);
	event = kt_reserve(start_failure);
	if (!event)
		return;
	event->process = process;
	event->error = error;
	event->call = number;
	event->absolute = absolute;
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	__builtin_memset(event->name, 0, sizeof(event->name));
	if (at)
		bpf_probe_read_user_str(event->name, sizeof(event->name), (void *)at);
	event->path_whole = kt_walk_path(event->path, &used, path);
	event->path_bytes = used;
	kt_submit(event);
}

KT_GLOBAL int tell_disk_failure(u64 regs, u32 error, u32 by_function)
{
	const u64 MS_BIND = 4096;
	struct task_struct *current = (void *)bpf_get_current_task();
	struct path *path = NULL;
	struct kt_call call;
	u64 at = 0, directory = (u64)-100;
	bool absolute = false, starts, removal;
	u8 flags, how, yes = 1, *told;
	char first = 0;

	read_call_of(&call, (void *)regs);
	if (call.number >= KT_DISK_CALLS)
		return 0;
	told = bpf_map_lookup_elem(&kt_disk_by_function, &call.number);
	if (by_function)
		bpf_map_update_elem(&kt_disk_by_function, &call.number, &yes, BPF_ANY);
	else if (told && *told)
		return 0;
	flags = kt_disk_calls[call.number & (KT_DISK_CALLS - 1)];
	how = flags & KT_CALL_WAYS;
	removal = is_of_removal(error) && (flags & KT_CALL_REMOVES);
	starts = !removal && !is_of_file_system(error);
	if (how == KT_CALL_OTHER || (starts && !((flags & KT_CALL_STARTS) && prepares_container())))
		return 0;
	/* who cannot remove what is a pod's is mostly not in the pod */
	if (!(removal && !kt_by_pid) && !kt_wanted(current, NULL))
		return 0;
	if ((flags & KT_CALL_SYNCS) && is_synced(error))
		return 0;
	if (how == KT_CALL_FD) {
		path = path_of_file(file_of(current, (u32)call.arguments[0]));
	} else if (how == KT_CALL_THIRD_FD) {
		path = path_of_file(file_of(current, (u32)call.arguments[2]));
	} else if (how == KT_CALL_NONE) {
		path = base_of(current, true, 0);
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
		} else if (how == KT_CALL_MOUNT && (call.arguments[3] & MS_BIND)) {
			at = call.arguments[0];
		}
		bpf_probe_read_user(&first, sizeof(first), (void *)at);
		absolute = first == '/';
		path = base_of(current, absolute, directory);
	}
	if (starts)
		submit_start(current, error, path, call.number, at, absolute);
	else
		submit_failure(current, error, path, call.number, at, absolute);
	return 0;
}

static __always_inline int look_at_call(const void *regs, long returned, bool by_function)
{
	u64 error = -returned;

	if (error - 1 >= MAX_ERRNO)
		return 0;
	if (!is_of_file_system(error) && !is_of_removal(error) && !prepares_container())
		return 0;
	return tell_disk_failure(kt_number(regs), error, by_function);
}

SEC("tp_btf/sys_exit")
KT_PROGRAM(on_sys_exit, u64 *ctx)
{
	return look_at_call((void *)ctx[0], ctx[1], false);
}

/* The functions of rare calls, which get the caller's registers. A kretprobe no longer has its function's argument. */
#if defined(__TARGET_ARCH_x86)
#define KT_CALLS_FUNCTION "__x64_sys_"
#else
#define KT_CALLS_FUNCTION "__arm64_sys_"
#endif

KT_MAP(kt_disk_entered, LRU_HASH, 1024, u64, u64);

static __always_inline void enter_call(u64 regs)
{
	u64 thread = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&kt_disk_entered, &thread, &regs, BPF_ANY);
}

static __always_inline void exit_call(long returned)
{
	u64 thread = bpf_get_current_pid_tgid();
	u64 *regs = bpf_map_lookup_elem(&kt_disk_entered, &thread);

	if (!regs)
		return;
	look_at_call((void *)*regs, returned, true);
	bpf_map_delete_elem(&kt_disk_entered, &thread);
}

#define KT_WATCH_CALL(name)                                        \
	SEC("fexit/" KT_CALLS_FUNCTION #name)                      \
	KT_TRAMPOLINE(fexit_##name, u64 *ctx)                      \
	{                                                          \
		return look_at_call((void *)ctx[0], ctx[1], true); \
	}                                                          \
	SEC("kprobe/" KT_CALLS_FUNCTION #name)                     \
	int BPF_KPROBE(kprobe_##name, u64 regs)                    \
	{                                                          \
		enter_call(regs);                                  \
		return 0;                                          \
	}                                                          \
	SEC("kretprobe/" KT_CALLS_FUNCTION #name)                  \
	int BPF_KRETPROBE(kretprobe_##name, long returned)         \
	{                                                          \
		exit_call(returned);                               \
		return 0;                                          \
	}

KT_WATCH_CALL(unlinkat)
KT_WATCH_CALL(umount)
KT_WATCH_CALL(mkdirat)
KT_WATCH_CALL(fallocate)
KT_WATCH_CALL(mount)
KT_WATCH_CALL(execve)
KT_WATCH_CALL(clone)
#if defined(__TARGET_ARCH_x86) /* newer architectures have only those with a directory */
KT_WATCH_CALL(unlink)
KT_WATCH_CALL(rmdir)
KT_WATCH_CALL(mkdir)
#endif

/* An error of writeback that reaches a program, at its fsync or the like: the one moment at which the kernel knows
 * both. */
SEC("tp_btf/file_check_and_advance_wb_err")
KT_PROGRAM(on_check_wb_err, u64 *ctx)
{
	const u32 UNKNOWN = ~0;
	struct task_struct *current = (void *)bpf_get_current_task();
	struct file___disk *file = (void *)kt_number((void *)ctx[0]);
	u32 error = BPF_CORE_READ(file, f_wb_err) & MAX_ERRNO, tid = bpf_get_current_pid_tgid();

	if (!is_of_file_system(error) || !kt_wanted(current, NULL))
		return 0;
	bpf_map_update_elem(&kt_disk_synced, &tid, &error, BPF_ANY);
	submit_failure(current, error,
		       (void *)file + bpf_core_field_offset(struct file___disk, f_path), UNKNOWN, 0,
		       false);
	return 0;
}

static __always_inline void tell_disk_error(kt_disk_device device, u32 error, u64 sector, u64 bytes,
					    u8 reporter, u8 writes)
{
	struct disk_error_event *event;

	if (!is_told(0, error, device))
		return;
	event = kt_reserve(disk_error);
	if (!event)
		return;
	event->cgroup = 0;
	event->sector = sector;
	event->bytes = bytes;
	event->device = device;
	event->error = error;
	event->reporter = reporter;
	event->writes = writes;
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	kt_submit(event);
}

SEC("tp_btf/filemap_set_wb_err")
KT_PROGRAM(on_set_wb_err, u64 *ctx)
{
	struct address_space___disk *mapping = (void *)kt_number((void *)ctx[0]);

	/* the tracepoint's own argument may be the error before */
	tell_disk_error(BPF_CORE_READ(mapping, host, i_sb, s_dev),
			BPF_CORE_READ(mapping, wb_err) & MAX_ERRNO, 0, 0, KT_BY_WRITEBACK, true);
	return 0;
}

SEC("tp_btf/block_rq_error")
KT_PROGRAM(on_block_error, u64 *ctx)
{
	struct request___disk *request = (void *)kt_number((void *)ctx[0]);

	tell_disk_error(BPF_CORE_READ(request, bio, bi_bdev, bd_dev), (u8)ctx[1],
			BPF_CORE_READ(request, __sector), (u32)ctx[2], KT_BY_DEVICE,
			BPF_CORE_READ(request, cmd_flags) & 1);
	return 0;
}

static __always_inline void count_written(struct inode___disk *inode, u64 bytes, u64 inodes)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct cgroup *cgroup = kt_cgroup_of(current);
	struct kt_writer key = {
		.cgroup = kt_id_of_cgroup(cgroup),
		.device = BPF_CORE_READ(inode, i_sb, s_dev),
	};
	struct kt_written first = {}, *known = bpf_map_lookup_elem(&kt_disk_writers, &key);

	if (!known) {
		kt_selected(cgroup, key.cgroup); /* it is described before it is told */
		bpf_map_update_elem(&kt_disk_writers, &key, &first, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&kt_disk_writers, &key);
	}
	/* clang makes an addition of 0 an atomic `or`, which kernels before 5.12 refuse */
	if (known && bytes)
		__sync_fetch_and_add(&known->bytes, bytes);
	if (known && inodes)
		__sync_fetch_and_add(&known->inodes, inodes);
}

/* A page becomes dirty in the writer's own context. tmpfs and the like have no dirty pages. */
SEC("tp_btf/writeback_dirty_folio")
KT_PROGRAM(on_dirty_folio, u64 *ctx)
{
	const u64 page = 4096;
	struct folio___disk *folio = (void *)kt_number((void *)ctx[0]);
	struct address_space___disk *mapping = (void *)kt_number((void *)ctx[1]);
	u64 flags = 0, pages = 1; /* the flags are the first member, whatever their type is */

	bpf_probe_read_kernel(&flags, sizeof(flags), folio);
	if (flags >> bpf_core_enum_value(enum pageflags, PG_head) & 1) {
		if (bpf_core_field_exists(folio->_nr_pages))
			pages = BPF_CORE_READ(folio, _nr_pages);
		else if (bpf_core_field_exists(folio->_flags_1))
			pages = 1ULL << (BPF_CORE_READ(folio, _flags_1) & 31);
	}
	count_written(BPF_CORE_READ(mapping, host), pages * page, 0);
	return 0;
}

/* The same where a page is no folio yet. */
SEC("tp_btf/writeback_dirty_page")
KT_PROGRAM(on_dirty_page, u64 *ctx)
{
	const u64 page = 4096;
	struct address_space___disk *mapping = (void *)kt_number((void *)ctx[1]);

	count_written(BPF_CORE_READ(mapping, host), page, 0);
	return 0;
}

SEC("tp_btf/ext4_allocate_inode")
KT_PROGRAM(on_new_inode, u64 *ctx)
{
	count_written((void *)kt_number((void *)ctx[0]), 0, 1);
	return 0;
}
#endif
