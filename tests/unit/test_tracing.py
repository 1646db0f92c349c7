# SPDX-License-Identifier: Apache-2.0
"""Which probes are traced where a node takes only some of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from tracer import probes
from tracer.cli._tracing import Tracing, _say, _with_accepted
from tracer.model.errors import CannotOnThisKernel, KtraceError
from tracer.model.selection import Selection
from tracer.probes import Probe
from tracer.session.session import Summary

EVERY = [probes.get(name) for name in probes.names()]
VALUES = {"backend": "auto"}


class Kernel:
    """Takes all probes but some; together only if `in_company`."""

    def __init__(self, *refused: str, in_company: bool = True) -> None:
        self.refused = refused
        self.in_company = in_company
        self.closed = 0

    def attach(self, wanted: Sequence[Probe], settings: dict[str, int]) -> None:
        for probe in wanted:
            if probe.name in self.refused:
                raise CannotOnThisKernel(f"{probe.name}: this kernel accepts none of x")
        if len(wanted) > 1 and not self.in_company:
            raise CannotOnThisKernel("not together")

    def together(self, wanted: Sequence[Probe]) -> list[str]:
        self.attach(wanted, {})
        return [probe.name for probe in wanted]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel: Kernel = request.param
    monkeypatch.setattr("tracer.backends.choose", lambda *_: kernel)
    return kernel


@pytest.mark.parametrize("kernel", [Kernel("backlog", "oom")], indirect=True)
def test_the_others_are_traced(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    traced = _with_accepted(kernel.together, EVERY, VALUES, _say)
    assert traced == [name for name in probes.names() if name not in kernel.refused]
    told = [f"ktrace: without {name}: this kernel accepts none of x" for name in kernel.refused]
    assert capsys.readouterr().err.splitlines() == told
    assert kernel.closed == len(traced)


@pytest.mark.parametrize("kernel", [Kernel("backlog")], indirect=True)
def test_it_is_said_where_it_can_be_read(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    _with_accepted(kernel.together, EVERY, VALUES, told.append)
    assert told == ["ktrace: without backlog: this kernel accepts none of x"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "kernel", [Kernel(*probes.names()), Kernel(in_company=False)], indirect=True
)
def test_no_way_out(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """If all are refused, or only all together, the first refusal is what is said."""
    with pytest.raises(CannotOnThisKernel) as raised:
        _with_accepted(kernel.together, EVERY, VALUES, _say)
    first = "backlog: this kernel accepts none of x" if kernel.refused else "not together"
    assert raised.value.message == first
    assert capsys.readouterr().err == ""


class Failing:
    def run(self) -> None:
        raise KtraceError("what traces has ended")


class Recorder:
    closed = False
    unrecorded = 0

    def close(self) -> None:
        self.closed = True


class Quiet:
    """A session in which nothing happened."""

    def run(self) -> Summary:
        return Summary(events=0, lost=0, seconds=1.0)


def test_what_was_not_looked_at_is_said_and_is_no_loss(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = object.__new__(Tracing)
    backend, names = SimpleNamespace(unseen={"apples": 15}), SimpleNamespace(failures={})
    vars(tracing).update(session=Quiet(), recorder=None, wanted=Selection(everything=True))
    vars(tracing).update(_backend=backend, _names=names)
    tracing.to_the_end(lambda: 1)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "ktrace: 0 events, 0 lost, 1.0 s; 1 timeline of what still runs had been forgotten, as"
        " there was too much of them",
        "ktrace: 15 apples were not looked at, see ktrace doctor",
    ]


def test_a_recording_is_ended_though_tracing_fails() -> None:
    tracing = object.__new__(Tracing)
    recorder = Recorder()
    vars(tracing).update(session=Failing(), recorder=recorder)
    with pytest.raises(KtraceError, match="what traces has ended"):
        tracing.to_the_end()
    assert recorder.closed
