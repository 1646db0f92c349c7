/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Macros for the core backend, which compiles the sources once, when ktrace is built, with CO-RE. bcc.h
 * defines the same names for compilation on the node.
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

/* A record's kind, numbered by the loader. The pointer only serves to put the struct's layout into the
 * object's BTF. */
#define KT_EVENT(name)                      \
	KT_SETTING(u32, kt_kind_##name, 0); \
	const struct name##_event *const volatile kt_layout_##name = 0

/* Puts the names and numbers of an enum into the object's BTF, where user space reads them. */
#define KT_NAMES(name) const enum name *const volatile kt_names_##name = 0

/* A program that takes its context as it is; a program that needs the kernel's function tracing; a function
 * that the verifier checks once and not at every call. */
#define KT_PROGRAM(name, context) int name(context)
#define KT_TRAMPOLINE(name, context) int name(context)
#define KT_GLOBAL __noinline

/* KT_READ reads memory directly if the verifier knows the pointer's type, see compat.h. */
#define KT_TYPED bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)
#define KT_READ(typed, ...) \
	((typed) && KT_TYPED ? ___arrow(__VA_ARGS__) : BPF_CORE_READ(__VA_ARGS__))

/* Whether the verifier refuses a program that reads an argument which its tracepoint does not have. */
#define KT_CHECKS_ARGUMENTS

/* KT_CHOOSE(name, …) chooses between two forms of a kernel interface: `yes` if `exists` is true. bcc.h cannot
 * test that; there KT_PRESENT names a header and the text to look for in it. */
#define KT_PRESENT(name, headers, text) _Static_assert(true, "")
#define KT_CHOOSE(name, exists, yes, no) ((exists) ? (yes) : (no))

char LICENSE[] SEC("license") = "GPL";

#endif
