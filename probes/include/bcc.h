/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Macros for BCC, which compiles the sources on a node, against the headers of its kernel. All differences
 * from core.h are here.
 *
 * tracer/backends/bcc/text.py makes one text of all sources. It leaves out their declarations of kernel types,
 * removes the suffixes of flavours, and puts in front of them
 *     #define kt_cgroups KT_MAP_AT(3)               each map, by its number
 *     #define kt_mode ((u32)KT_SETTING_AT(0))       each setting, by its number
 *     #define KT_HAS_cgroup_ancestors 1             each KT_PRESENT, looked up in the node's headers
 * Numbers of maps and settings stand for descriptors and values, which the loader fills in.
 */
#ifndef KT_BCC_H
#define KT_BCC_H

#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/cred.h>
#include <linux/cgroup-defs.h>
#include <linux/kernfs.h>
#include <linux/pid_namespace.h>
#include <linux/fs.h>
#include <linux/mount.h>

/* The beginning of struct mount in fs/mount.h, which is a private header. */
struct mount {
	struct hlist_node mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

/* Names that are macros in the kernel, and the sources' own identifiers here. */
#undef current
#undef PF_KTHREAD
#undef RTF_LOCAL
#undef SEND_SIG_NOINFO
#undef SEND_SIG_PRIV
#undef SIGNAL_GROUP_EXIT
#undef SIGNAL_STOP_STOPPED
#undef SIGSYS
#undef SI_ASYNCIO
#undef SI_KERNEL
#undef SI_SIGIO
#undef SI_TIMER
#undef SI_USER
#undef SYS_SECCOMP
#undef TIME_WAIT

#define SEC(name)
#define KT_MAP(name, kind, entries, key_type, value_type) _Static_assert(true, "")
#define KT_RING(name, bytes) _Static_assert(true, "")
#define KT_SETTING(type, name, default) _Static_assert(true, "")
#define KT_EVENT(name) _Static_assert(true, "")
#define KT_NAMES(name) _Static_assert(true, "")
#define KT_GLOBAL static __always_inline

/* Both are 64-bit constants that begin with a mark, which text.py has, too. The loader finds them and writes
 * the real values. */
#define KT_MARK 0x4b54726163650000
#define KT_MAP_AT(number) (*(char *)bpf_pseudo_fd(1, number))
#define KT_SETTING_AT(number)                                                      \
	({                                                                         \
		u64 value_;                                                        \
		asm volatile("%0 = %1 ll" : "=r"(value_) : "i"(KT_MARK + number)); \
		value_;                                                            \
	})

#undef bpf_map_lookup_elem
#undef bpf_map_update_elem
#undef bpf_map_delete_elem
#define bpf_map_lookup_elem(map, key) bpf_map_lookup_elem_((u64)(map), key)
#define bpf_map_update_elem(map, key, value, flags) \
	bpf_map_update_elem_((u64)(map), key, value, flags)
#define bpf_map_delete_elem(map, key) bpf_map_delete_elem_((u64)(map), key)

/* Without the kernel's BTF no pointer has a type. */
#define KT_TYPED false
#define KT_HAS_typed_pointers 0
#define KT_READ(typed, ...) BPF_CORE_READ(__VA_ARGS__)

/* Only the form that the node's headers have is compiled. */
#define KT_PRESENT(name, headers, text) _Static_assert(true, "")
#define KT_CHOOSE(name, exists, yes, no) KT_CHOOSE_(KT_HAS_##name, yes, no)
#define KT_CHOOSE_(has, yes, no) KT_CHOOSE__(has, yes, no)
#define KT_CHOOSE__(has, yes, no) KT_CHOOSE_##has(yes, no)
#define KT_CHOOSE_0(yes, no) (no)
#define KT_CHOOSE_1(yes, no) (yes)

/* BCC compiles each function in a section of this name. It does not compile functions that only others call,
 * because its programs cannot call any. Programs for trampolines are left out and cannot be attached. */
#define KT_SECTION(name) __attribute__((section(".bpf.fn." #name)))
#define KT_TRAMPOLINE(name, context) static inline __attribute__((unused)) int name(context)
#define KT_PROGRAM(name, context)                    \
	static __always_inline int name##_(context); \
	KT_SECTION(name) int name(void *kt_context)  \
	{                                            \
		KT_BEGIN();                          \
		name##_(kt_context);                 \
		KT_END(kt_context);                  \
		return 0;                            \
	}                                            \
	static __always_inline int name##_(context)

#define KT_COUNT(...) KT_COUNT_(_, ##__VA_ARGS__, 5, 4, 3, 2, 1, 0)
#define KT_COUNT_(_, a, b, c, d, e, count, ...) count
#define KT_JOIN(one, other) KT_JOIN_(one, other)
#define KT_JOIN_(one, other) one##other

/* A raw tracepoint's arguments are numbers in its context; a function's are in its registers. */
#define KT_RAW_0
#define KT_RAW_1 , (void *)kt_context[0]
#define KT_RAW_2 KT_RAW_1, (void *)kt_context[1]
#define KT_RAW_3 KT_RAW_2, (void *)kt_context[2]
#define KT_RAW_4 KT_RAW_3, (void *)kt_context[3]
#define KT_RAW_5 KT_RAW_4, (void *)kt_context[4]
#define KT_REGISTERS_0
#define KT_REGISTERS_1 , (void *)PT_REGS_PARM1(kt_context)
#define KT_REGISTERS_2 KT_REGISTERS_1, (void *)PT_REGS_PARM2(kt_context)
#define KT_REGISTERS_3 KT_REGISTERS_2, (void *)PT_REGS_PARM3(kt_context)
#define KT_REGISTERS_4 KT_REGISTERS_3, (void *)PT_REGS_PARM4(kt_context)
#define KT_REGISTERS_5 KT_REGISTERS_4, (void *)PT_REGS_PARM5(kt_context)
#define KT_RETURNED_0
#define KT_RETURNED_1 , (void *)PT_REGS_RC(kt_context)

/* clang-format off */
#define KT_UNPACK(name, context_type, values, ...)                                                        \
	name(void *);                                                                                     \
	static __always_inline int name##_(context_type *kt_context, ##__VA_ARGS__);                      \
	KT_SECTION(name) int name(void *context_)                                                         \
	{                                                                                                 \
		context_type *kt_context = context_;                                                      \
		KT_BEGIN();                                                                               \
		_Pragma("GCC diagnostic push")                                                            \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                                    \
		name##_(kt_context KT_JOIN(values, KT_COUNT(__VA_ARGS__)));                               \
		_Pragma("GCC diagnostic pop")                                                             \
		KT_END(kt_context);                                                                       \
		return 0;                                                                                 \
	}                                                                                                 \
	static __always_inline int name##_(context_type *kt_context, ##__VA_ARGS__)
/* clang-format on */

#undef BPF_PROG
#define BPF_PROG(name, ...) KT_UNPACK(name, u64, KT_RAW_, ##__VA_ARGS__)
#define BPF_KPROBE(name, ...) KT_UNPACK(name, struct pt_regs, KT_REGISTERS_, ##__VA_ARGS__)
#define BPF_KRETPROBE(name, ...) KT_UNPACK(name, struct pt_regs, KT_RETURNED_, ##__VA_ARGS__)

/* Chains of reads. The types are the node's own, so the compiler knows the offsets. */
#define KT_READ_1(from, member)                                                                 \
	({                                                                                      \
		typeof(from) from_ = (from);                                                    \
		typeof(from_->member) value_;                                                   \
		bpf_probe_read_kernel((void *)&value_, sizeof(value_), (void *)&from_->member); \
		value_;                                                                         \
	})
#define KT_READ_2(from, a, b) KT_READ_1(KT_READ_1(from, a), b)
#define KT_READ_3(from, a, b, c) KT_READ_1(KT_READ_2(from, a, b), c)
#define KT_READ_4(from, a, b, c, d) KT_READ_1(KT_READ_3(from, a, b, c), d)
#define BPF_CORE_READ(from, ...) KT_JOIN(KT_READ_, KT_COUNT(__VA_ARGS__))(from, ##__VA_ARGS__)
#define BPF_CORE_READ_INTO(to, from, member) \
	bpf_probe_read_kernel(to, sizeof(*(to)), &(from)->member)
#define BPF_CORE_READ_BITFIELD_PROBED(from, member) BPF_CORE_READ(from, member)
#define bpf_core_read bpf_probe_read_kernel
#define bpf_core_field_offset(type, member) __builtin_offsetof(type, member)
#define bpf_core_type_size(type) sizeof(type)
#define bpf_core_enum_value(type, value) (value)

#define bpf_ntohs(number) __builtin_bswap16(number)
#define bpf_htons(number) __builtin_bswap16(number)

#ifndef KT_SPOOL
#define KT_BEGIN()
#define KT_END(context)
#endif

#endif
