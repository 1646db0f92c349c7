/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How the sources are compiled for the core backend: once, when ktrace is built, with CO-RE. bcc.h is the
 * other side: the same names for what is compiled on the node.
 */
#ifndef KT_CORE_H
#define KT_CORE_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>

/* A map. The loader knows it by its name. */
#define KT_MAP(name, kind, entries, key_type, value_type) \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_##kind);        \
		__uint(max_entries, entries);             \
		__type(key, key_type);                    \
		__type(value, value_type);                \
	} name SEC(".maps")

#define KT_RING(name, bytes)                        \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);         \
	} name SEC(".maps")

/* A number that the loader may write before the program is loaded. */
#define KT_SETTING(type, name, default) const volatile type name = default

/* A record's kind, which the loader numbers. The pointer only makes the struct's layout part of the
 * object's BTF. */
#define KT_EVENT(name)                      \
	KT_SETTING(u32, kt_kind_##name, 0); \
	const struct name##_event *const volatile kt_layout_##name = 0

/* A program that takes its context as it is; one for which the kernel must be able to trace functions; a
 * function that the verifier looks at once and not at every call. */
#define KT_PROGRAM(name, context) int name(context)
#define KT_TRAMPOLINE(name, context) int name(context)
#define KT_GLOBAL __noinline

/* KT_READ reads memory directly where the verifier knows the pointer's type, see compat.h. */
#define KT_TYPED bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)
#define KT_READ(typed, ...) \
	((typed) && KT_TYPED ? ___arrow(__VA_ARGS__) : BPF_CORE_READ(__VA_ARGS__))

/* Whether the verifier refuses a program that asks for an argument which its tracepoint does not have. */
#define KT_CHECKS_ARGUMENTS

/* KT_CHOOSE(name, …) tells the forms of something in the kernel apart: `yes` where `exists` is true. bcc.h
 * has no such question; there KT_PRESENT says in which header to look for what text. */
#define KT_PRESENT(name, headers, text) _Static_assert(true, "")
#define KT_CHOOSE(name, exists, yes, no) ((exists) ? (yes) : (no))

char LICENSE[] SEC("license") = "GPL";

#endif
