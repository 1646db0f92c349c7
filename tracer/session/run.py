# SPDX-License-Identifier: Apache-2.0
"""Tracing on this node, from the request to the last event, for any caller: a command, the live
view or a service.

A `TraceRequest` says what is wanted. A `Run` of it does nothing until `attach`. Its messages go to
`say`, and its failures are `KtraceError`s. Signals, terminals and exit codes are the caller's.
"""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from tracer.kernel.limits import check_descriptors
from tracer.model.errors import CannotOnThisKernel
from tracer.model.event import Clock
from tracer.model.names import Names
from tracer.model.selection import Mode, Selection
from tracer.probes import Options, Probe
from tracer.session.recorder import Recorder

if TYPE_CHECKING:
    from tracer.backends import Backend
    from tracer.identity.cri import CriSource
    from tracer.identity.names import Arrivals, NameService
    from tracer.kubernetes.access import Access
    from tracer.kubernetes.watch import Cluster
    from tracer.session.live import LiveSource
    from tracer.session.session import Session, Sink, Summary

Say = Callable[[str], None]


@dataclass(frozen=True)
class TraceRequest:
    """`options` are by probe name; a probe without an entry uses its defaults. `backend` is one of
    `tracer.backends.NAMES`, or `auto`. `duration` (seconds) and `count` (events) are limits; None
    is no limit. Without `argv`, no arguments of processes are kept. `cri_socket` replaces the usual
    sockets of runtimes. `wait` allows pods and processes that do not exist yet. `kubernetes` is
    the way to its API and the node's name there, if what it says shall be known, too. A `frugal`
    session remembers less of what is gone."""

    probes: tuple[Probe, ...]
    selection: Selection = field(default_factory=Selection)
    options: Mapping[str, Options] = field(default_factory=dict)
    backend: str = "auto"
    duration: float | None = None
    count: int | None = None
    argv: bool = True
    cri_socket: str | None = None
    wait: bool = False
    kubernetes: tuple[Access, str] | None = None
    frugal: bool = False

    def settings(self, probe: Probe) -> dict[str, int]:
        """Raises `UsageError` if the probe's options make no sense."""
        options = self.options.get(probe.name) or probe.options()
        return options.settings(self.selection)


class RunRecorder(Recorder, Protocol):
    @property
    def unrecorded(self) -> int:
        """Events that could not be written."""

    @property
    def failure(self) -> OSError | None:
        """The error that ended the recording, if any."""

    def close(self) -> None: ...


class Run:
    """`check` says whether this node can serve the request, `attach` begins the tracing, `run`
    continues to the end. Nothing is missed after `attach`, which calls `check` if the caller did
    not.

    After `check`, `selection` is the final one. After `attach`, `backend` traces `probes`, the ones
    of the request that this node accepts, and `session` has begun; `unmatched` says what of the
    selection this node does not have yet, None if it has something; `state_sources` know the states
    of pods. `attach` calls `record`, which makes the session's recorder. Without a sink nothing is
    decoded."""

    backend: Backend
    probes: Sequence[Probe]

    def __init__(
        self,
        request: TraceRequest,
        sink: Sink | None,
        clock: Clock,
        say: Say,
        record: Callable[[Run], RunRecorder] | None = None,
    ) -> None:
        self.request = request
        self.clock = clock
        self.selection = request.selection
        self.unmatched: str | None = None
        self.state_sources: list[CriSource] = []
        self.recorder: RunRecorder | None = None
        self._sink = sink
        self._say = say
        self._record = record
        self._checked = self._stopped = self._closed = False
        self._settings: dict[str, dict[str, int]] = {}
        self._names: NameService | None = None
        self._cluster: Cluster | None = None
        self._arrivals: Arrivals | None = None
        self._known = Names()
        self._attaching: Backend | None = None
        self._source: LiveSource | None = None
        self._session: Session | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raises `KtraceError` if the request cannot succeed. Starts the name service if the
        selection is by name."""
        from tracer.backends import privileges
        from tracer.kernel import heap

        request = self.request
        chosen = request.selection
        if chosen.mode is not Mode.ALL:
            from tracer.identity.mirror import with_static_pods
            from tracer.kernel.cgroupfs import has_pods

            chosen = replace(with_static_pods(chosen, self._say), without_pods=not has_pods())
        self.selection = chosen
        self._settings = {probe.name: request.settings(probe) for probe in request.probes}
        privileges.check()
        check_descriptors(len(request.probes))
        if chosen.pids and not request.wait:
            from tracer.identity.inventory import check_pids

            check_pids(chosen.pids)
        heap.keep_little()
        if chosen.about_target or chosen.globs:
            self._look_for_names()
        if request.kubernetes:
            from tracer.kubernetes.watch import Cluster

            self._cluster = Cluster(*request.kubernetes, self._say)
            self._cluster.start()
        self._checked = True

    def attach(self) -> None:
        """If the node refuses some of the probes, traces the others and reports the refused ones.
        Raises `CannotOnThisKernel` if it refuses all."""
        from tracer.kernel import heap

        if not self._checked:
            self.check()
        probes = self.request.probes
        _import_meanwhile()
        try:
            source = self._attach(probes)
        except CannotOnThisKernel:
            refused = {probe.name: error for probe in probes if (error := self._refusal(probe))}
            if len(refused) in (0, len(probes)):
                raise
            for error in refused.values():
                self._say(f"ktrace: without {error.message}")
            source = self._attach([probe for probe in probes if probe.name not in refused])
        from tracer.identity.unmatched import unmatched

        self.unmatched = unmatched(self.selection, self._known)
        if self._record:
            self.recorder = self.session.recorder = self._record(self)
        for turn in source.begin():
            self.session.take(turn)
        if self._stopped:
            self.session.stop()
        heap.give_back()

    def run(self) -> Summary:
        """Traces until a limit of the request or `stop`. Everything before a failure is
        recorded."""
        try:
            return self.session.run()
        finally:
            self.close()

    def stop(self) -> None:
        """Ends the run soon and in order, whether it has begun or not. May be called from a signal
        handler or another thread."""
        self._stopped = True
        if self._session is not None:
            self._session.stop()
        elif self._attaching is not None:
            self._attaching.wake()

    def close(self) -> None:
        """May be called more than once."""
        if self._closed:
            return
        self._closed = True
        if self._cluster is not None:
            self._cluster.stop()
            if self._cluster.dropped:
                self._say(f"ktrace: {self._cluster.dropped} facts of Kubernetes found no room")
        try:
            if self._source is not None:
                self._source.close()
            elif self._names is not None:
                self._names.stop()
            if self._source is None and self._attaching is not None:
                self._attaching.close()
        finally:
            if self.recorder is not None:
                self.recorder.close()

    @property
    def stopping(self) -> bool:
        return self._stopped or (self._session is not None and self._session.stopping)

    @property
    def summary(self) -> Summary:
        """The summary so far."""
        from tracer.session.session import Summary

        return self._session.summary if self._session else Summary()

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    @property
    def silent(self) -> Mapping[str, str]:
        """Sources of names that failed, and why."""
        return self._names.failures if self._names else {}

    @property
    def cannot_tell(self) -> dict[str, tuple[str, ...]]:
        """By probe name, what it cannot report on this node."""
        return {name: point.cannot_tell for name, point in self.backend.attached.items()}

    def _look_for_names(self) -> None:
        """Starts the name service. If the selection is by name, waits for the first names."""
        from tracer.identity.cri import CriSource
        from tracer.identity.inventory import (
            check_globs,
            check_labels,
            first_names,
            name_sources,
        )
        from tracer.identity.names import Arrivals, NameService

        chosen = self.selection
        sources = name_sources(self.request.cri_socket)
        if chosen.labels:
            check_labels(sources)
        self.state_sources = [source for source in sources if isinstance(source, CriSource)]
        arrivals = self._arrivals = Arrivals()
        self._names = NameService(sources, arrivals.put)
        self._names.start()
        if chosen.about_target or chosen.globs:
            self._known = first_names(self._names, arrivals)
        if (chosen.globs or chosen.labels) and not self.request.wait:
            for doubt in check_globs(chosen.globs, self._known, self._names.failures):
                self._say(f"ktrace: {doubt}")

    def _attach(self, probes: Sequence[Probe]) -> LiveSource:
        from tracer.backends import choose
        from tracer.session.settings import of_selection

        request = self.request
        backend = self._attaching = choose(request.backend, probes, self._say)
        settings = ChainMap(*(self._settings[probe.name] for probe in probes))
        backend.attach(list(probes), {**of_selection(self.selection), **settings})
        from tracer.session.live import LiveSource
        from tracer.session.session import Session

        if self._names is None:
            self._look_for_names()
        assert self._names is not None
        assert self._arrivals is not None
        source = LiveSource(
            *(backend, self._names, self._arrivals, self.clock),
            duration=request.duration,
            decoding=self._sink is not None,
            argv=request.argv,
            facts=self._cluster.take if self._cluster else tuple,
            frugal=request.frugal,
        )
        source.attached(self.selection)
        self._session = Session(
            *(source, probes, self.selection, self._sink, self.clock, request.count),
            frugal=request.frugal,
        )
        self._source = source
        self.backend, self.probes = backend, probes
        return source

    def _refusal(self, probe: Probe) -> CannotOnThisKernel | None:
        """Why this node refuses the probe; None if it does not."""
        from tracer.backends import choose

        try:
            backend = choose(self.request.backend, [probe], lambda words: None)
            backend.attach([probe], {})
        except CannotOnThisKernel as error:
            return error
        backend.close()
        return None


def _import_meanwhile() -> None:
    """Imports the modules of a session in a thread: the kernel takes as long to check programs, and
    leaves the interpreter to it."""

    def fetch() -> None:
        with suppress(ImportError):  # raised again by who imports it next
            import tracer.identity.inventory
            import tracer.identity.unmatched
            import tracer.session.live
            import tracer.session.session  # noqa: F401

    threading.Thread(target=fetch, name="ktrace-imports").start()
