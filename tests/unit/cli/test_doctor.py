# SPDX-License-Identifier: Apache-2.0
"""What `ktrace doctor` says of backends and probes: all of it, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer import backends, probes
from tracer.backends.lack import Lack
from tracer.cli import _in_pod, doctor
from tracer.cli._findings import Finding
from tracer.identity.logs import LogDirectorySource
from tracer.kernel import node as node_of_now
from tracer.kernel.cgroupfs import Cgroup
from tracer.kernel.hierarchies import Hierarchy
from tracer.model.cgroup import CgroupIdentity
from tracer.model.errors import CannotOnThisKernel
from tracer.probes import AttachPoint, Probe

LEG = Lack("a leg", "grow one")
ARM = Lack("an arm", "grow that")
OTHERS = {name for name in probes.names() if name != "oom"}


class Node:
    """What its backends lack, as such and for a probe; core refuses what is in `refused`."""

    def __init__(self) -> None:
        self.lacks: dict[tuple[str, str | None], list[Lack]] = {}
        self.refused: set[str] = set()
        self.capabilities: list[str] = []
        self.attached: dict[str, AttachPoint] = {}

    def lacking(self, backend: str, probe: Probe | None = None) -> list[Lack]:
        return self.lacks.get((backend, probe.name if probe else None), [])

    def choose(self, backend: str, wanted: list[Probe]) -> Node:
        return self

    def attach(self, wanted: list[Probe], settings: dict[str, int]) -> None:
        for probe in wanted:
            if probe.name in self.refused:
                raise CannotOnThisKernel(f"no {probe.name} here", "take another kernel")
            self.attached[probe.name] = probe.attach_points[0]

    def close(self) -> None: ...


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(backends, "NAMES", ("core", "bcc", "stap"))
    monkeypatch.setattr(backends, "lacking", made.lacking)
    monkeypatch.setattr(backends, "choose", made.choose)
    monkeypatch.setattr(doctor, "missing_capabilities", lambda: made.capabilities)
    monkeypatch.setattr(doctor, "_runtimes", lambda socket, in_pod: iter(()))
    return made


def told(*about: str) -> list[Finding]:
    return [finding for finding in doctor.findings(None) if not about or finding.what in about]


def test_what_a_backend_lacks_as_such_is_said_once(node: Node) -> None:
    node.lacks["bcc", None] = [LEG]
    node.lacks["stap", None] = [LEG, ARM]
    assert told("core", "bcc", "stap") == [
        Finding("ok", "core", "has what it needs"),
        Finding("note", "bcc", "lacks a leg", "grow one"),
        Finding("note", "stap", "lacks a leg", "grow one"),
        Finding("note", "stap", "lacks an arm", "grow that"),
    ]
    of_probes = told(*probes.names())
    assert {finding.what for finding in of_probes} == set(probes.names())
    assert all(finding.found.startswith("core") for finding in of_probes)


def test_what_differs_by_probe_is_said_with_the_probe(node: Node) -> None:
    node.lacks["stap", None] = [LEG]
    node.lacks["bcc", "oom"] = [ARM]
    assert Finding("note", "oom", "bcc: lacks an arm", "grow that") in told("oom")
    for name in OTHERS:
        assert Finding("ok", name, "bcc: may be tried") in told(name)


def test_a_probe_that_no_backend_takes_is_a_problem(node: Node) -> None:
    node.lacks["bcc", None] = node.lacks["stap", None] = [LEG]
    node.refused.add("oom")
    assert told("oom") == [
        Finding("problem", "oom", "core: no oom here", "take another kernel"),
    ]
    assert {finding.what for finding in told() if finding.state == "problem"} == {"oom"}


def test_a_probe_that_another_backend_takes_is_none(node: Node) -> None:
    node.lacks["stap", None] = [LEG]
    node.refused.add("oom")
    assert told("oom") == [
        Finding("note", "oom", "core: no oom here", "take another kernel"),
        Finding("ok", "oom", "bcc: may be tried"),
    ]


def test_where_no_backend_can_the_probes_are_one_line(node: Node) -> None:
    for name in backends.NAMES:
        node.lacks[name, None] = [LEG]
    assert [finding.state for finding in told(*backends.NAMES)] == ["problem"] * 3
    assert told("probes", *probes.names()) == [
        Finding("problem", "probes", "no backend can run them, see above"),
    ]


@pytest.mark.parametrize("in_pod", [False, True])
def test_each_capability_has_the_line_that_brings_it(
    node: Node, in_pod: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of pods a process of root has all."""
    monkeypatch.setattr(node_of_now, "signs_of_a_pod", lambda: ["a sign"] if in_pod else [])
    monkeypatch.setattr(_in_pod, "has", lambda capability: False)
    node.capabilities = ["CAP_BPF", "CAP_PERFMON"]
    problem, *others = told("privileges")
    assert (problem.state, problem.found) == ("problem", "without CAP_BPF, CAP_PERFMON")
    if in_pod:
        assert problem.remedy == "securityContext: {capabilities: {add: [BPF, PERFMON]}}"
        assert [(one.state, one.remedy) for one in others] == [
            ("note", "securityContext: {capabilities: {add: [SYS_PTRACE]}}")
        ]
    else:
        assert (problem.remedy, others) == ("sudo ktrace …", [])


def test_without_privileges_the_probes_are_one_line(node: Node) -> None:
    node.capabilities.append("CAP_BPF")
    assert [f.state for f in told("privileges")] == ["problem"]
    assert told("probes", *probes.names()) == [
        Finding("problem", "probes", "not tried without those privileges"),
    ]


def test_findings_are_broken_between_words_and_remedies_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "terminal_width", lambda: 30)
    doctor._print(Finding("note", "oom", "one two three four five six", "copy this" * 5))
    assert capsys.readouterr().out.splitlines() == [
        "· oom         one two three",
        "              four five six",
        "              → " + "copy this" * 5,
    ]


def test_on_a_terminal_of_twenty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The indent is no more than a quarter of it."""
    monkeypatch.setattr(doctor, "terminal_width", lambda: 20)
    doctor._print(Finding("ok", "kernel log", "one two three four five six"))
    assert capsys.readouterr().out.splitlines() == [
        "✔ kernel log  one",
        "     two three four",
        "     five six",
    ]


@pytest.mark.parametrize("colour", [True, False])
def test_colour_is_by_the_one_rule(
    colour: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which knows NO_COLOR."""
    monkeypatch.setattr(doctor, "in_colour", lambda choice: colour and choice == "auto")
    doctor._print(Finding("ok", "core", "has what it needs"))
    assert ("\x1b" in capsys.readouterr().out) is colour


def test_a_node_whose_runtime_cannot_be_asked_knows_no_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs = [LogDirectorySource()]
    monkeypatch.setattr("tracer.identity.inventory.name_sources", lambda socket: logs)
    (told,) = [f for f in doctor._runtimes(None) if "labels" in f.found]
    assert (told.state, told.what) == ("note", "names")
    assert "--cri-socket" in str(told.remedy)


class World:
    """What a pod shows of its node; `findings` are those about that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signs = ["its cgroup is a pod's"]
        self.name = "node-7"
        self.mounted = [Hierarchy(0, "/sys/fs/cgroup", 2)]
        self.cgroups: list[Cgroup] = []
        self.hosts_processes = True
        monkeypatch.setattr("tracer.kernel.node.signs_of_a_pod", lambda: self.signs)
        monkeypatch.setattr("tracer.kernel.node.hosts_name", lambda: self.name)
        monkeypatch.setattr(
            "tracer.kernel.node.sees_the_hosts_processes", lambda: self.hosts_processes
        )
        monkeypatch.setattr("tracer.kernel.hierarchies.hierarchies", lambda: self.mounted)
        monkeypatch.setattr("tracer.kernel.cgroupfs.container_cgroups", lambda: self.cgroups)

    def told(self, what: str, name: str | None = None) -> Finding:
        (found,) = [f for f in doctor.findings(None, name) if f.what == what]
        return found


@pytest.fixture
def pod(node: Node, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_it_says_that_it_runs_in_a_pod(pod: World) -> None:
    assert pod.told("pod").found == "ktrace runs in a pod: its cgroup is a pod's"
    pod.signs = []
    assert not [f for f in doctor.findings(None) if f.what == "pod"]


def test_the_nodes_name_in_a_pod(pod: World) -> None:
    guessed = pod.told("node")
    assert guessed.state == "note"
    assert guessed.found.startswith("node-7, the host's own name")
    pod.name = ""
    unknown = pod.told("node")
    assert unknown.state == "note"
    assert unknown.remedy == (
        "env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]"
    )
    assert pod.told("node", "node-8") == Finding("ok", "node", "node-8")


def test_no_pod_in_a_pod_is_a_problem(pod: World) -> None:
    empty = pod.told("cgroups")
    assert empty.state == "problem"
    assert "0 pods" in empty.found
    assert "hostPath: {path: /sys/fs/cgroup}" in str(empty.remedy)
    pod.signs = []
    assert pod.told("cgroups").state == "ok"


def test_a_part_of_the_cgroups_is_a_problem(pod: World) -> None:
    identity = CgroupIdentity(pod_uid="uid")
    pod.cgroups = [Cgroup(1, "/x", "/sys/fs/cgroup/x", identity)]
    assert pod.told("cgroups").state == "ok"
    pod.mounted = [Hierarchy(0, "/sys/fs/cgroup", 2, whole=False)]
    part = pod.told("cgroups")
    assert part.state == "problem"
    assert "only a part" in part.found
    assert "hostPath: {path: /sys/fs/cgroup}" in str(part.remedy)


def test_processes_that_are_not_the_hosts(pod: World) -> None:
    assert pod.told("processes").state == "ok"
    pod.hosts_processes = False
    hidden = pod.told("processes")
    assert (hidden.state, hidden.remedy) == ("problem", "hostPID: true in the pod's spec")


def test_a_kernel_log_that_cannot_be_read(pod: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("tracer.kernel.kmsg.KernelLog", refuse)
    lacking = pod.told("kernel log")
    assert lacking.state == "note"
    assert "hostPath: {path: /dev/kmsg}" in str(lacking.remedy)


def test_sources_that_know_no_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a pod they cannot be right."""
    logs = [LogDirectorySource(str(tmp_path))]
    monkeypatch.setattr("tracer.identity.inventory.name_sources", lambda socket: logs)
    source, labels, none = doctor._runtimes(None, in_pod=True)
    assert (source.state, source.found) == ("note", "log directories: 0 pods")
    assert "hostPath: {path: /var/log}" in str(source.remedy)
    assert "hostPath: {path: /run/containerd}" in str(labels.remedy)
    assert (none.state, none.remedy) == ("problem", labels.remedy)
    (tmp_path / "var/log/pods/shop_web-0_0a1b").mkdir(parents=True)
    (source, _) = doctor._runtimes(None, in_pod=True)
    assert source == Finding("ok", "names", "log directories: 1 pod")
