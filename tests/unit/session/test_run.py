# SPDX-License-Identifier: Apache-2.0
"""A run from its request to its end: what it traces where a node takes only some of the probes, and
that it can be ended at any moment."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tracer import probes
from tracer.backends import Cost
from tracer.backends.objects import Objects
from tracer.cli._tracing import to_the_end
from tracer.identity.resolver import Resolver
from tracer.model.batch import Batch
from tracer.model.errors import CannotOnThisKernel, KtraceError, UsageError
from tracer.model.event import Clock
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.probes import AttachPoint, Probe
from tracer.probes.signals import SignalOptions
from tracer.session.run import Run, TraceRequest

EVERY = tuple(probes.get(name) for name in probes.names())
WHOLE_NODE = Selection(everything=True)


class Kernel:
    """A backend that takes all probes but some; together only if `in_company`. `meanwhile` happens
    while it attaches."""

    name = "made up"
    walked = True

    def __init__(self, *refused: str, in_company: bool = True) -> None:
        self.refused = refused
        self.in_company = in_company
        self.attached: dict[str, AttachPoint] = {}
        self.unseen: dict[str, int] = {}
        self.settings: dict[str, int] = {}
        self.closed = self.woken = 0
        self.failure: KtraceError | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        shipped = Objects()
        shipped.open("context")
        self.schemas = shipped.schemas

    def attach(self, wanted: list[Probe], settings: dict[str, int]) -> None:
        for probe in wanted:
            if probe.name in self.refused:
                raise CannotOnThisKernel(f"{probe.name}: this kernel accepts none of x")
        if len(wanted) > 1 and not self.in_company:
            raise CannotOnThisKernel("not together")
        self.settings = settings
        self.meanwhile()

    def select(self, cgroup: int, verdict: int) -> None: ...

    def trace_pid(self, pid: int) -> None: ...

    def read(self, timeout: float) -> Batch | None:
        if self.failure:
            raise self.failure
        return None

    def wake(self) -> None:
        self.woken += 1

    def lost(self) -> dict[str, int]:
        return {}

    def cost(self) -> Cost:
        return Cost()

    def detach(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


class Recorder:
    unrecorded = 0
    failure = None

    def __init__(self) -> None:
        self.closed = 0

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None: ...

    def patience(self, now: int) -> float:
        return 0.0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel: Kernel = getattr(request, "param", None) or Kernel()
    monkeypatch.setattr("tracer.backends.choose", lambda *_: kernel)
    monkeypatch.setattr("tracer.backends.privileges.check", lambda: None)
    monkeypatch.setattr("tracer.identity.inventory.name_sources", lambda socket: [])
    monkeypatch.setattr("tracer.session.live.container_cgroups", lambda: [])
    return kernel


def run_of(*wanted: Probe, said: list[str] | None = None) -> Run:
    request = TraceRequest(wanted or EVERY, WHOLE_NODE, duration=0.01)
    return Run(request, None, Clock(), (said if said is not None else []).append)


@pytest.mark.parametrize("kernel", [Kernel("backlog", "oom")], indirect=True)
def test_the_others_are_traced(kernel: Kernel) -> None:
    said: list[str] = []
    with run_of(said=said) as run:
        run.attach()
        traced = [probe.name for probe in run.probes]
        assert traced == [name for name in probes.names() if name not in kernel.refused]
        assert said == [
            f"ktrace: without {name}: this kernel accepts none of x" for name in kernel.refused
        ]
        assert kernel.closed == len(traced)  # each was tried by itself
    assert kernel.closed == len(traced) + 1


@pytest.mark.parametrize(
    "kernel", [Kernel(*probes.names()), Kernel(in_company=False)], indirect=True
)
def test_no_way_out(kernel: Kernel) -> None:
    """If all are refused, or only all together, the first refusal is what is said."""
    said: list[str] = []
    with pytest.raises(CannotOnThisKernel) as raised, run_of(said=said) as run:
        run.attach()
    first = "backlog: this kernel accepts none of x" if kernel.refused else "not together"
    assert raised.value.message == first
    assert said == []


def test_nothing_happens_before_it_attaches(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("backends.choose", "backends.privileges.check", "identity.names.NameService"):
        monkeypatch.setattr(f"tracer.{place}", lambda *_: pytest.fail("too early"))
    with run_of() as run:
        assert not run.stopping
        assert run.summary.events == 0


def test_options_become_settings(kernel: Kernel) -> None:
    options = {"signals": SignalOptions("KILL")}
    request = TraceRequest((probes.get("signals"),), WHOLE_NODE, options, duration=0.01)
    with Run(request, None, Clock(), pytest.fail) as run:
        run.attach()
    assert kernel.settings["kt_signal_mask"] == 1 << 8
    wrong = TraceRequest(request.probes, WHOLE_NODE, {"signals": SignalOptions("NONSENSE")})
    with pytest.raises(UsageError), Run(wrong, None, Clock(), pytest.fail) as run:
        run.check()


def test_it_ends_by_its_limit_and_gives_everything_back(kernel: Kernel) -> None:
    run = run_of()
    run.attach()
    assert run.run().events == 0
    assert kernel.closed == 1
    run.close()
    assert kernel.closed == 1


@pytest.mark.parametrize("moment", ["before", "while attaching", "attached"])
def test_it_can_be_stopped_at_any_moment(kernel: Kernel, moment: str) -> None:
    request = TraceRequest(EVERY, WHOLE_NODE)  # without an end of its own
    with Run(request, None, Clock(), pytest.fail) as run:
        if moment == "before":
            run.stop()
        elif moment == "while attaching":
            kernel.meanwhile = run.stop
        run.attach()
        if moment == "attached":
            run.stop()
        assert run.stopping
        run.run()
    assert kernel.closed == 1
    assert kernel.woken


@pytest.mark.parametrize("kernel", [Kernel("oom")], indirect=True)
def test_who_stops_it_is_heard_though_a_probe_is_refused(kernel: Kernel) -> None:
    with Run(TraceRequest(EVERY, WHOLE_NODE), None, Clock(), lambda words: run.stop()) as run:
        run.attach()
        run.run()


def test_a_recording_is_ended_though_tracing_fails(kernel: Kernel) -> None:
    kernel.failure = KtraceError("what traces has ended")
    recorder = Recorder()
    run = Run(TraceRequest(EVERY, WHOLE_NODE), None, Clock(), pytest.fail, lambda run: recorder)
    with pytest.raises(KtraceError, match="what traces has ended"), run:
        run.attach()
        run.run()
    assert recorder.closed == 1


def test_a_recording_is_ended_though_it_never_ran(kernel: Kernel) -> None:
    recorder = Recorder()
    request = TraceRequest(EVERY, WHOLE_NODE)
    with Run(request, None, Clock(), pytest.fail, lambda run: recorder) as run:
        run.attach()
        assert run.session.recorder is recorder
    assert recorder.closed == 1


def test_what_was_not_looked_at_is_said_and_is_no_loss(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.unseen = {"apples": 15}
    with run_of() as run:
        run.attach()
        to_the_end(run, lambda: 1)
    closing, *told = capsys.readouterr().err.splitlines()
    assert closing.startswith("ktrace: 0 events, 0 lost, ")
    assert closing.endswith(
        "; 1 timeline of what still runs had been forgotten, as there was too much of them"
    )
    assert told == ["ktrace: 15 apples were not looked at, see ktrace doctor"]


def test_a_source_of_names_that_failed_is_said(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_of() as run:
        run.attach()
        run._names = SimpleNamespace(failures={"a": "\x1b[31m"})  # type: ignore[assignment]
        to_the_end(run)
    assert "ktrace: names may be missing: a: \\x1b[31m\n" in capsys.readouterr().err
