# SPDX-License-Identifier: Apache-2.0
"""Events of the running kernel for the live view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tracer.kernel import node
from tracer.kernel.limits import reason
from tracer.live.model import Model, Snapshot
from tracer.live.pace import Pace
from tracer.live.switch import RecordingSwitch
from tracer.model.event import Clock
from tracer.outputs.escape import escape
from tracer.recording.recorder import recorder_of
from tracer.session.run import Run, TraceRequest
from tracer.session.session import Summary
from tracer.why.timelines import MAX_SHOWN, Timelines


class NodeFeed:
    """Records to `recording` from the beginning, if given, and calls `attached` when tracing has
    begun. `note` gets messages for the user; `node_name` overrides the node's own name."""

    player = None

    def __init__(
        self,
        request: TraceRequest,
        node_name: str | None,
        recording: Path | None,
        attached: Callable[[], None],
        post: Callable[[Snapshot], None],
        note: Callable[[str], None],
    ) -> None:
        self.node = node.name(node_name)
        self.clock = Clock()
        self.source = request.backend
        self.probes: Sequence[str] = ()
        by_kind = {kind: probe for probe in request.probes for kind in probe.whose}
        self.model = Model(by_kind, self.clock.now, self._timelines, post)
        self.switch = RecordingSwitch(note)
        if recording:
            self.switch.start(recording)
        self._note = note
        self._attached = attached
        self._run = Run(
            request, self.model, self.clock, lambda words: note(escape(words)), self._record
        )

    def run(self) -> None:
        if not self.node:  # now there is a screen for notes
            self._note(f"ktrace: {node.UNTOLD}")
        with self._run as run:
            run.attach()
            self.source = run.backend.name
            self.probes = [probe.name for probe in run.probes]
            self.model.timelines.began_ns = self.clock.now()
            self.model.timelines.traced = frozenset(self.probes)
            self.model.timelines.facts = run.session.facts
            self._attached()
            run.run()

    def stop(self) -> None:
        if not self._run.stopping:
            with suppress(OSError):  # it may be closing by itself right now
                self._run.stop()

    def summary(self) -> Summary:
        return self._run.summary

    def _timelines(self) -> Timelines:
        return Timelines(self.clock, most=MAX_SHOWN)

    def _record(self, run: Run) -> Pace:
        recorder = recorder_of(run, self.switch, self.node, lambda error: self._note(reason(error)))
        return Pace(self.model, self.clock, run.selection, recorder)
