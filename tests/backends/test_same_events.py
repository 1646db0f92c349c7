# SPDX-License-Identifier: Apache-2.0
"""All backends of a guest trace the same incidents at the same time, and tell the same of them:
event by event and key by key, but for the nulls that docs/compatibility.md names."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.kernel.checks import TIMES
from tests.lab.makers import maker
from tests.support.ktrace import Ktrace
from tests.support.same_events import counts, differences, stage, undocumented
from tracer import probes

# Those that the lab made this guest for (tests/lab/makers.py).
BACKENDS = os.environ.get("KTRACE_LAB_BACKENDS", "").split()


def test_the_same_events() -> None:
    with ExitStack() as stack:
        tracers = {name: stack.enter_context(tracing_by(name)) for name in BACKENDS}
        staged = stack.enter_context(stage())
        told = {name: tracer.stop() for name, tracer in tracers.items()}
        lost = {name: tracer.summary.lost for name, tracer in tracers.items()}
    by_core = told.pop("core")
    assert told, "there is nothing to compare core with"
    assert lost == dict.fromkeys(lost, 0)
    seen = counts(by_core, staged)
    assert seen["signal"] >= 5 * TIMES + 6  # those that killed, too
    assert seen["exit"] == 3 * TIMES + 3  # of victims, too, and of all who acted
    assert seen["oom"] == TIMES
    assert seen["tcp_reset"] >= 2 * TIMES  # both ends, and what the full queues leave behind
    assert seen["backlog_drop"] == TIMES
    assert seen["page_alloc_failure"] == TIMES
    wrong = [
        f"{name} is there: {found}"
        for name, events in told.items()
        for found in undocumented(differences(by_core, events, staged, kinds_of(name)), name)
    ]
    assert not wrong, "\n".join(wrong)


def tracing_by(backend: str) -> Ktrace:
    return Ktrace("trace", ",".join(maker(backend).PROBES), "--all", backend=backend)


def kinds_of(backend: str) -> set[str]:
    return {kind for name in maker(backend).PROBES for kind in probes.get(name).whose}
