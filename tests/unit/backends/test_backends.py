# SPDX-License-Identifier: Apache-2.0
"""Which backend is taken, and what is said where one lacks something."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tracer import backends, probes
from tracer.backends import core, privileges
from tracer.backends.lack import Lack
from tracer.model.errors import CannotOnThisKernel, MissingPrivilege
from tracer.probes import Probe

EXITS, OOM = probes.get("exits"), probes.get("oom")


class Made(ModuleType):
    """A backend that lacks what it is told to lack, by probe; "" is the backend as such."""

    def __init__(self, name: str, lacks: dict[str, Lack]) -> None:
        super().__init__(name)
        self.lacks = lacks

    def create(self, say: backends.Say) -> str:
        self.say = say
        return f"made {self.__name__}"

    def lacking(self, probe: Probe | None) -> list[Lack]:
        lack = self.lacks.get(probe.name if probe else "")
        return [lack] if lack else []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Lack]]:
    """Two backends; the test says what they lack."""
    lacks: dict[str, dict[str, Lack]] = {"good": {}, "spare": {}}
    monkeypatch.setattr(backends, "NAMES", tuple(lacks))
    monkeypatch.setattr(privileges, "missing_capabilities", list)
    for name in lacks:
        monkeypatch.setitem(sys.modules, f"tracer.backends.{name}", Made(name, lacks[name]))
    return lacks


def choose(wanted: str, *probes: Probe) -> tuple[object, list[str]]:
    said: list[str] = []
    return backends.choose(wanted, probes, said.append), said


@pytest.mark.usefixtures("made")
def test_the_first_is_taken_without_a_word() -> None:
    assert choose("auto", EXITS) == ("made good", [])


@pytest.mark.usefixtures("made")
def test_what_takes_long_is_said_to_the_same_ears() -> None:
    _, said = choose("auto", EXITS)
    sys.modules["tracer.backends.good"].say("building")
    assert said == ["building"]


@pytest.mark.parametrize("probe", ["", "exits"])
def test_the_next_is_taken_and_says_why(made: dict[str, dict[str, Lack]], probe: str) -> None:
    made["good"][probe] = Lack("a leg", "grow one")
    assert choose("auto", OOM, EXITS) == (
        "made spare",
        ["ktrace: backend spare, as good lacks a leg"],
    )


def test_what_another_probe_lacks_is_no_obstacle(made: dict[str, dict[str, Lack]]) -> None:
    made["good"]["oom"] = Lack("a leg", "grow one")
    assert choose("auto", EXITS) == ("made good", [])


def test_nobody_can(made: dict[str, dict[str, Lack]]) -> None:
    made["good"][""] = Lack("a leg", "grow one")
    made["spare"]["exits"] = Lack("an arm", "grow that")
    with pytest.raises(CannotOnThisKernel) as refused:
        choose("auto", EXITS)
    assert refused.value.message == "cannot trace here: good lacks a leg; spare lacks an arm"
    assert refused.value.remedy == "ktrace doctor tells the rest"


def test_the_one_that_is_asked_for_is_the_only_one(made: dict[str, dict[str, Lack]]) -> None:
    assert choose("spare", EXITS) == ("made spare", [])
    made["spare"][""] = Lack("an arm", "grow that")
    with pytest.raises(CannotOnThisKernel) as refused:
        choose("spare", EXITS)
    assert refused.value.message == "cannot trace here: spare lacks an arm"
    assert refused.value.remedy == "grow that"


def test_privileges_come_first(
    made: dict[str, dict[str, Lack]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not trace is not told to install packages."""
    made["good"][""] = made["spare"][""] = Lack("a leg", "grow one")
    monkeypatch.setattr(privileges, "missing_capabilities", lambda: ["CAP_BPF"])
    with pytest.raises(MissingPrivilege, match="CAP_BPF"):
        choose("auto", EXITS)


def test_standard_error_is_told(
    made: dict[str, dict[str, Lack]], capsys: pytest.CaptureFixture[str]
) -> None:
    made["good"][""] = Lack("a leg", "grow one")
    backends.choose("auto", [EXITS])
    assert capsys.readouterr() == ("", "ktrace: backend spare, as good lacks a leg\n")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "BTF of this kernel ({}: No such file or directory)"),
        (b"", "BTF of this kernel ({} holds none)"),
        (b"\0" * 64, "BTF of this kernel ({} holds none)"),
    ],
)
def test_core_lacks_btf(
    content: bytes | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vmlinux"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(core, "BTF", str(path))
    assert [lack.what for lack in core.lacking(None)] == [what.format(path)]
    assert core.lacking(EXITS) == []


def test_core_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes((0xEB9F).to_bytes(2, sys.byteorder))
    monkeypatch.setattr(core, "BTF", str(path))
    assert core.lacking(None) == []
