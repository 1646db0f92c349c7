/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's types, limited to the members that ktrace reads.
 *
 * `preserve_access_index` makes clang emit a CO-RE relocation for every access,
 * so libbpf fills in the running kernel's offsets. Order and size of the members
 * here have no meaning. A renamed member has a second declaration with a
 * `___suffix` (a flavour) in compat.h.
 *
 * When BCC compiles this on a node, it leaves out everything between the two
 * pragmas, here and in other files, and uses the node's own headers instead.
 */
#ifndef KT_KERNEL_H
#define KT_KERNEL_H

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	unsigned int val;
} kuid_t;

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file_system_type {
	const char *name;
};

struct super_block {
	u32 s_dev;
	struct file_system_type *s_type;
};

struct file {
	struct path f_path;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};

struct kernfs_node {
	struct kernfs_node *__parent;
	const char *name;
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup *ancestors[];
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

enum cgroup_subsys_id {
	memory_cgrp_id = 0x7f, /* the real number comes from the running kernel */
};

struct css_set {
	struct cgroup_subsys_state *subsys[12];
	struct cgroup *dfl_cgrp;
};

struct pid_namespace;

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct cred {
	kuid_t uid;
};

struct core_state;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
	struct core_state *core_state;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	int exit_code;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	u64 start_boottime;
	const struct cred *cred;
	char comm[16];
	struct mm_struct *mm;
	u64 self_exec_id;
	struct css_set *cgroups;
	struct signal_struct *signal;
};

struct pid_namespace {
	struct task_struct *child_reaper;
};

struct kernel_siginfo {
	int si_code;
	union {
		struct {
			int _syscall;
			unsigned int _arch;
		} _sigsys;
	} _sifields;
};

#pragma clang attribute pop

#endif
