// SPDX-License-Identifier: GPL-2.0
/*
 * Every signal with its sender and target, at the moment it is generated, by any way of raising it.
 */
#include "ktrace.h"

struct signal_event {
	struct kt_header header;
	struct kt_party sender; /* all zero: the kernel */
	struct kt_party target;
	s32 code; /* siginfo's si_code */
	kt_signal signal;
	u8 result; /* TRACE_SIGNAL_*, include/trace/events/signal.h */
	u8 group;  /* to the whole process, not to one thread */
	u8 from_kernel;
	u32 target_state; /* enum kt_target_state */
	u32 call_arch;    /* AUDIT_ARCH_* of the system call that seccomp forbade; 0: none */
	s32 call;
	u32 unused;
};

/* The state of the process after the signal was generated; 0: not read. */
enum kt_target_state {
	KT_RUNNING = 1,
	KT_STOPPED,      /* by SIGSTOP or a similar signal */
	KT_DUMPING_CORE, /* it dies, and first writes its memory to a file or a program */
	KT_DYING,        /* possibly of this very signal */
};

KT_EVENT(signal);
KT_NAMES(kt_target_state);

/* bit n-1: signal n is wanted */
KT_SETTING(u64, kt_signal_mask, ~0ULL);

enum {
	SI_USER = 0,
	SI_TIMER = -2,
	SI_ASYNCIO = -4,
	SI_SIGIO = -5,
	SI_KERNEL = 0x80,
	SIGSYS = 31,
	SYS_SECCOMP = 1,
};

static __always_inline s32 code_of(u64 info)
{
	if (info == SEND_SIG_NOINFO)
		return SI_USER;
	if (info == SEND_SIG_PRIV)
		return SI_KERNEL;
	return BPF_CORE_READ((struct kernel_siginfo *)info, si_code);
}

/*
 * `current` is the sender only if a system call of its own raised the signal. It is not when
 *  - the code is above 0 or SEND_SIG_PRIV: only the kernel uses those (sigaction(2));
 *  - a timer or an asynchronous read has ended, in any context;
 *  - SEND_SIG_NOINFO goes to the running process itself: the kernel answers a call of it, as SIGPIPE
 *    answers write(2). kill(2) and similar calls always pass a siginfo, and cgroup.kill and a parent's
 *    death reach other processes;
 *  - the CPU was idle or in a kernel thread.
 * This covers interrupt context: every signal raised there is one of the first two cases.
 */
static __always_inline bool raised_by_kernel(u64 info, s32 code, struct task_struct *current,
					     struct task_struct *target)
{
	const u32 PF_KTHREAD = 0x00200000;

	if (code > 0 || code == SI_TIMER || code == SI_ASYNCIO || code == SI_SIGIO)
		return true;
	if (info == SEND_SIG_NOINFO && KT_READ(true, current, tgid) == KT_READ(true, target, tgid))
		return true;
	return KT_READ(true, current, flags) & PF_KTHREAD;
}

static __always_inline u32 state_of(struct task_struct *target)
{
	const u32 SIGNAL_STOP_STOPPED = 1, SIGNAL_GROUP_EXIT = 4;
	struct signal_struct *signal = KT_READ(true, target, signal);
	u32 flags = KT_READ(true, signal, flags);

	if (kt_dumps_core(signal, flags, true))
		return KT_DUMPING_CORE;
	if (flags & SIGNAL_GROUP_EXIT)
		return KT_DYING;
	return flags & SIGNAL_STOP_STOPPED ? KT_STOPPED : KT_RUNNING;
}

static __always_inline void read_call(struct signal_event *event, u64 info)
{
	struct kernel_siginfo *siginfo = (void *)info;

	event->call = event->call_arch = event->unused = 0;
	if (event->signal != SIGSYS || event->code != SYS_SECCOMP)
		return;
	event->call = BPF_CORE_READ(siginfo, _sifields._sigsys._syscall);
	event->call_arch = BPF_CORE_READ(siginfo, _sifields._sigsys._arch);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal_generate, int signal, struct kernel_siginfo *siginfo,
	     struct task_struct *target, int group, int result)
{
	struct task_struct *sender = kt_current();
	struct kt_party from = {}, to = {};
	struct signal_event *event;
	bool from_kernel;
	u64 info;
	s32 code;

	if (!(kt_signal_mask >> ((signal - 1) & 63) & 1))
		return 0;
	/* most signals on a node concern no pod, so they must be the cheapest */
	if (!kt_wanted_as(target, sender, true))
		return 0;
	info = kt_number(siginfo);
	code = code_of(info);
	from_kernel = raised_by_kernel(info, code, sender, target);
	if (from_kernel && !kt_wanted_as(target, NULL, true))
		return 0;

	kt_refer_as(&to, target, true);
	if (!from_kernel)
		kt_refer_as(&from, sender, true);
	event = kt_reserve(signal);
	if (!event)
		return 0;
	event->sender = from;
	event->target = to;
	event->code = code;
	event->signal = signal;
	event->result = result;
	event->group = group;
	event->from_kernel = from_kernel;
	event->target_state = state_of(target);
	read_call(event, info);
	kt_submit(event);
	return 0;
}
