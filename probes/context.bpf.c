// SPDX-License-Identifier: GPL-2.0
/*
 * Attached with every probe. Cgroups are followed from their creation, so a pod that starts later is known
 * before its first process runs. A process in a container is described when it execs, the only moment at
 * which its arguments are certain to be readable.
 */
#include "ktrace.h"

/* A described cgroup is gone, and so are its processes. */
struct cgroup_end_event {
	struct kt_header header;
	kt_cgroup_id cgroup;
};

KT_EVENT(cgroup_end);

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_mkdir, struct cgroup *cgroup)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct cgroup *memory = kt_memory_v1(BPF_CORE_READ(current, cgroups));
	int hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);

	/* a container's cgroup is made in every hierarchy of version 1; one of them is enough */
	if (!hierarchy || (memory && hierarchy == BPF_CORE_READ(memory, root, hierarchy_id)))
		kt_describe_cgroup(kt_number(cgroup));
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_rmdir, struct cgroup *cgroup)
{
	kt_cgroup_id id = kt_id_of_cgroup(cgroup);
	struct cgroup_end_event *event;

	if (bpf_map_delete_elem(&kt_cgroups, &id)) /* never described, or forgotten since */
		return 0;
	event = kt_reserve(cgroup_end);
	if (event) {
		event->cgroup = id;
		kt_submit(event);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task)
{
	struct kt_party party;

	if (kt_wanted(task, NULL))
		kt_refer(&party, task);
	return 0;
}
