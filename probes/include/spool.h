/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Records through perf buffers, for kernels without a ring buffer. A write to a perf buffer needs the
 * program's context, which the functions that make records do not have, and a record is too large for the
 * stack. So records are put into slots of this CPU, and the program sends them at its end.
 *
 * A program that interrupts another one uses the slots behind those of the other, and frees them again.
 */
#ifndef KT_SPOOL_H
#define KT_SPOOL_H

struct kt_slot {
	u64 size;
	u8 record[KT_SLOT_BYTES - 8];
};

/* kt_slots has KT_SLOTS of these; kt_slots_used has the number in use. */

static __always_inline u32 *kt_slots_in_use(void)
{
	u32 only = 0;

	return bpf_map_lookup_elem(&kt_slots_used, &only);
}

static __always_inline void kt_count_lost(u32 kind)
{
	u64 *lost = bpf_map_lookup_elem(&kt_lost, &kind);

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

static __always_inline void *kt_reserve_record(u32 kind, const u64 size)
{
	u32 *used = kt_slots_in_use(), number;
	struct kt_header *header;
	struct kt_slot *slot;

	if (!used)
		return NULL;
	number = *used;
	slot = bpf_map_lookup_elem(&kt_slots, &number);
	if (!slot) {
		kt_count_lost(kind);
		return NULL;
	}
	*used = number + 1;
	slot->size = size;
	header = (void *)slot->record;
	header->kind = kind;
	header->cpu = bpf_get_smp_processor_id();
	header->time = bpf_ktime_get_boot_ns();
	return header;
}

/* The record is sent when its program ends. */
static __always_inline void kt_submit_record(void *record, const u64 size)
{
}

static __always_inline void kt_send_slots(void *context, u32 first)
{
	const u64 this_cpu = 0xffffffffULL; /* BPF_F_CURRENT_CPU */
	u32 *used = kt_slots_in_use();

	if (!used)
		return;
	for (u32 sent = 0; sent < KT_SLOTS; sent++) {
		u32 number = first + sent;
		struct kt_slot *slot;
		u64 size;

		if (number >= *used)
			break;
		slot = bpf_map_lookup_elem(&kt_slots, &number);
		if (!slot)
			break;
		size = slot->size;
		if (size > sizeof(slot->record)) /* never, but the verifier cannot know */
			break;
		if (bpf_perf_event_output(context, (void *)&kt_ring, this_cpu, slot->record, size))
			kt_count_lost(*(u32 *)slot->record);
	}
	*used = first;
}

#define KT_BEGIN()                      \
	u32 *used_ = kt_slots_in_use(); \
	u32 first_ = used_ ? *used_ : 0
#define KT_END(context) kt_send_slots(context, first_)

#endif
