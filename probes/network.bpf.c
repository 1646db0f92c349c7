// SPDX-License-Identifier: GPL-2.0
/*
 * Reports which cgroups have processes in which network namespaces. Attached with probes whose events have a
 * namespace but no process. An exec reports the process's namespace before the process can send anything, so
 * neither the namespace's age nor a short life matters. Running processes are walked through once. User space
 * looks for addresses, and for namespaces without any exec (tracer/identity/network_lookup.py).
 */
#include "network.h"

/* The relation of a process to its network namespace. */
enum kt_network_how {
	KT_OF_HOST, /* the host's, which belongs to no container: nothing else is reported of it */
	KT_AT_HOME, /* the same as that of the first process in the PID namespace */
	KT_VISITING, /* another: made by a container for some of its processes, or another container's */
	KT_CONCLUDED, /* user space has found such a process later, or, without a cgroup, none */
};

KT_NAMES(kt_network_how);

/* A process of `cgroup` is in the network namespace. User space may know the inode alone: `network` 0. */
struct network_event {
	struct kt_header header;
	kt_network network;
	kt_cgroup_id cgroup;
	kt_boot_ns start; /* of the process */
	kt_netns netns;
	kt_pid pid;
	u32 how; /* enum kt_network_how */
	u32 unused;
};

/* One of its addresses, from user space. All zero: the lookup for the network_event of the time `because` has
 * ended. */
struct network_address_event {
	struct kt_header header;
	kt_network network;
	kt_boot_ns because;
	kt_address address;
};

KT_EVENT(network);
KT_EVENT(network_address);

struct kt_network_use {
	kt_network network;
	kt_cgroup_id cgroup;
	u32 how;
	u32 unused;
};

/* The reported uses. If one is forgotten, it is reported again. */
KT_MAP(kt_network_uses, LRU_HASH, 16384, struct kt_network_use, u8);

/* The first process of a PID namespace that `pid` is in. */
static __always_inline struct task_struct *first_process(struct pid *pid, u32 level)
{
	struct upid *numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			       level * bpf_core_type_size(struct upid);

	return BPF_CORE_READ(numbers, ns, child_reaper);
}

/* Pid 1 may have left the first network namespace; its parent, the idle task, has not. */
static __always_inline struct net *net_of_host(struct pid *pid)
{
	return kt_net_of_task(BPF_CORE_READ(first_process(pid, 0), real_parent));
}

/* A container that shares the host's PID namespace has no first process of its own to compare with. */
static __always_inline u32 how_used(struct net *net, struct pid *pid)
{
	u32 level = BPF_CORE_READ(pid, level);

	if (net == net_of_host(pid))
		return KT_OF_HOST;
	return !level || net == kt_net_of_task(first_process(pid, level)) ? KT_AT_HOME
									  : KT_VISITING;
}

static __always_inline void tell_network(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct net *net = kt_net_of_task(task);
	struct kt_network_use use = {};
	struct network_event *event;
	u8 told = 1;

	if (!net || !pid) /* it is ending */
		return;
	use.network = kt_network_of(net);
	use.how = how_used(net, pid);
	if (use.how != KT_OF_HOST)
		use.cgroup = kt_id_of_cgroup(kt_cgroup_of(task));
	if (bpf_map_lookup_elem(&kt_network_uses, &use))
		return;
	event = kt_reserve(network);
	if (!event)
		return;
	event->network = use.network;
	event->cgroup = use.cgroup;
	event->start = BPF_CORE_READ(task, start_boottime);
	event->netns = kt_netns_of(net);
	event->pid = BPF_CORE_READ(task, tgid);
	event->how = use.how;
	event->unused = 0;
	kt_submit(event);
	bpf_map_update_elem(&kt_network_uses, &use, &told, BPF_ANY);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec_in_network, struct task_struct *task)
{
	tell_network(task);
	return 0;
}

/* Argument 1 of an iterator is a task, and NULL after the last. Only leaders count: a thread may enter another
 * namespace for a moment, as a runtime's does with each new pod. */
SEC("iter/task")
KT_PROGRAM(list_networks, void *ctx)
{
	struct task_struct *task = NULL;

	bpf_probe_read_kernel(&task, sizeof(task), ctx + 8);
	if (task && BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid))
		tell_network(task);
	return 0;
}
