# SPDX-License-Identifier: Apache-2.0
"""A new probe as its author writes it: a `.bpf.c`, a package and a page."""

SOURCE = """\
// SPDX-License-Identifier: GPL-2.0
#include "ktrace.h"

struct trial_event {
	struct kt_header header;
	struct kt_party process;
	u64 answer;
};

KT_EVENT(trial);

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_trial, struct task_struct *task)
{
	struct kt_party process = {};
	struct trial_event *event;

	if (!kt_wanted(task, NULL))
		return 0;
	kt_refer(&process, task);
	event = kt_reserve(trial);
	if (!event)
		return 0;
	event->process = process;
	event->answer = 42;
	kt_submit(event);
	return 0;
}
"""
PACKAGE = '''\
# SPDX-License-Identifier: Apache-2.0
"""Show programs that begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from tracer.model.event import Event, Process
from tracer.model.summary import summary
from tracer.probes import Alike, AttachPoint, Decode, Probe, Stream
from tracer.probes.columns import CONTAINER, Column, pod_name, process_name


class TrialBody(TypedDict):
    process: Process
    answer: int


def _decoder(stream: Stream) -> Mapping[str, Decode]:
    def decode(record: Any) -> Event[TrialBody]:
        process = stream.resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        body: TrialBody = {"process": process, "answer": record.answer}
        return Event("trial", record.time, process, None, body)

    return {"trial": decode}


PROBE: Probe[TrialBody] = Probe(
    name="trial",
    object="trial",
    help=summary(__doc__),
    examples=("ktrace trial",),
    attach_points=(AttachPoint("tp_btf/sched_process_exec", ("on_trial",)),),
    decoder=_decoder,
    bodies={"trial": TrialBody},
    whose={"trial": "process_process"},
    columns=(
        Column("PROCESS", lambda e: process_name(e.about), 14, 23),
        Column("ANSWER", lambda e: str(e.body["answer"]), 6, 6),
        Column("POD", lambda e: pod_name(e.place), 10, 40, 1),
        CONTAINER,
    ),
    summary=lambda e: f"{process_name(e.about)} began, and the answer is {e.body['answer']}",
    grouping=lambda e: Alike("trial", e.body["answer"]),
    alarm=lambda e: True,
)
'''
# docs/events/trial.md
PAGE = """\
# The probe trial

`ktrace trial` shows programs that begin.

## trial

| key | type | meaning | `null` when |
|---|---|---|---|
| `process` | process | that begins | never |
| `answer` | integer | to everything | never |
"""
