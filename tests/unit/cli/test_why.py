# SPDX-License-Identifier: Apache-2.0
"""`ktrace why FILE`: recordings made by hand, explained by the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from tests.support.ktrace import run
from tests.unit import records
from tests.unit.recording.test_recording import BEGAN, CID, NAMES, PATH, SECOND, metadata, part
from tests.unit.records import cgroup_path, exe
from tracer import probes
from tracer.cli import root
from tracer.cli import why as why_command
from tracer.cli._watch import Watch
from tracer.identity import inventory
from tracer.identity.resolver import Resolver
from tracer.kernel import cgroupfs
from tracer.model.cgroup import CgroupIdentity
from tracer.model.kubernetes import Facts
from tracer.model.names import Container, Names, Pod
from tracer.model.turn import Lost, Part, Turn
from tracer.recording.format import (
    Kind,
    block,
    by_kind,
    events_payload,
    file_header,
    json_block,
    names_json,
)
from tracer.session.run import Run
from tracer.session.session import Summary

END = BEGAN + 60 * SECOND
INIT, KILLER = 7, 50
OTHER_UID, OTHER_CID = "ffffffff-4e5f-6071-8293-a4b5c6d7e8f9", "f" * 64
OTHER_PATH = f"/kubepods/burstable/pod{OTHER_UID}/{OTHER_CID}"
BOTH = Names(
    {**NAMES.pods, OTHER_UID: Pod(OTHER_UID, "shop", "db-0", {})},
    {**NAMES.containers, OTHER_CID: Container(OTHER_CID, "containerd", "db", OTHER_UID)},
)


def described(pid: int, cgroup: int, start: int = BEGAN + SECOND, **more: Any) -> Part:
    values: dict[str, Any] = {"process": pid, "pid": pid, "tid": pid, "cgroup": cgroup}
    values |= {"start": start, "comm": b"app", "pid_in_pod": 1, "pid_level": 1, **more}
    return part("process", records.pack("process", **values))


def cgroups(**paths: str) -> list[Part]:
    packed = [
        records.pack("cgroup", cgroup=int(number.removeprefix("c")), **cgroup_path(path))
        for number, path in paths.items()
    ]
    return [part("cgroup", *packed)]


def kill(target: int = INIT, at: int = END) -> Part:
    party = {"sender_process": KILLER, "sender_pid": KILLER, "sender_tid": KILLER}
    party |= {"target_process": target, "target_pid": target, "target_tid": target}
    return part("signal", records.pack("signal", time=at - 1000, signal=9, **party))


def end(pid: int = INIT, status: int = 9, at: int = END) -> Part:
    of = {"process_process": pid, "process_pid": pid, "process_tid": pid}
    return part("exit", records.pack("exit", time=at, status=status, **of))


SCENE = [
    *cgroups(c1=PATH, c2=OTHER_PATH, c3="/system.slice/cron.service"),
    described(INIT, 1),
    described(8, 2),
    described(KILLER, 3, comm=b"cron", pid_level=0, pid_in_pod=KILLER, **exe("/usr/sbin/cron")),
]


def recording(
    path: Path, *parts: Part, lost: Lost | None = None, names: Names = BOTH, **changes: Any
) -> str:
    told = metadata(**{"attached": {"signals": "x", "exits": "x", "oom": "x"}, **changes})
    turns = [Turn(END + SECOND, [*SCENE, *parts]), Turn(END + 2 * SECOND, last=True)]
    payload = events_payload(turns, by_kind(turns), told.schemas)
    data = file_header() + json_block(Kind.META, told.json())
    data += json_block(Kind.IDENTITY, names_json(names, [1, 2, 3]))
    if lost:
        data += json_block(Kind.LOST, {"since": lost.since, "counts": dict(lost.counts)})
    data += block(Kind.EVENTS, payload) + json_block(Kind.END, {})
    path.write_bytes(data)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "storm.ktrace"


def why(*arguments: str) -> list[dict[str, Any]]:
    done = run("why", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_ended_container(file: Path) -> None:
    verdicts = why(recording(file, kill(), end(), end(8, 3 << 8, END + 5)))
    assert [(v["pod"]["name"], v["verdict"], v["certainty"]) for v in verdicts] == [
        ("web-0", "killed_from_host", "certain"),
        ("db-0", "exited", "certain"),
    ]
    first = verdicts[0]
    assert first["node"] == "node-7"
    assert first["container"] == {"name": "nginx", "id": CID, "runtime": "containerd"}
    assert [(e["kind"], e["boot_ns"]) for e in first["evidence"]] == [
        ("signal", END - 1000),
        ("exit", END),
    ]


@pytest.mark.parametrize("glob", ["web-0", "shop/web-*"])
def test_one_pod(file: Path, glob: str) -> None:
    (verdict,) = why(recording(file, kill(), end(), end(8)), "--pod", glob)
    assert verdict["pod"]["name"] == "web-0"


def test_one_container(file: Path) -> None:
    (verdict,) = why(recording(file, kill(), end(), end(8)), "-c", "db")
    assert verdict["container"]["name"] == "db"


def test_lost_events(file: Path) -> None:
    lost = Lost(END - SECOND, {"signal": 23})
    (verdict,) = why(recording(file, kill(), end(), lost=lost))
    assert verdict["certainty"] == "likely"
    assert verdict["doubts"] == ["23 signals events were lost in the minute before"]


def test_probes_that_were_not_recorded(file: Path) -> None:
    (verdict,) = why(recording(file, end(), attached={"exits": "x"}))
    assert (verdict["verdict"], verdict["certainty"]) == ("unexplained", "unknown")
    assert verdict["doubts"] == ["oom was not traced", "signals was not traced"]


def test_a_recording_that_begins_in_the_middle(file: Path) -> None:
    runc = described(KILLER, 3, comm=b"runc", pid_level=0, **exe("/usr/sbin/runc"))
    (verdict,) = why(recording(file, runc, kill(), end(), began=END - SECOND))
    assert (verdict["verdict"], verdict["certainty"]) == ("killed_by_runtime", "likely")
    assert verdict["doubts"] == ["a SIGTERM may have come before tracing began"]


def test_colour_is_for_terminals_or_asked_for(file: Path) -> None:
    name = recording(file, kill(), end())
    plain = run("why", name).stdout
    coloured = run("why", name, "--color", "always").stdout
    assert "\x1b" not in plain
    assert coloured.startswith("\x1b[1mshop/web-0 nginx: killed")
    assert "\x1b[32mcertain: the kernel said so\x1b[0m" in coloured
    assert click.unstyle(coloured) == plain


EVERY_PROBE = dict.fromkeys(probes.names(), "x")
NOTHING = ("--pod", "web-0", "-c", "none")


def test_nothing_to_explain(file: Path) -> None:
    done = run("why", recording(file, kill(), end(), attached=EVERY_PROBE), *NOTHING)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith("ktrace: nothing happened that needs an explanation\n")


def test_nothing_that_was_seen(file: Path) -> None:
    lost = Lost(END - SECOND, {"signal": 23})
    done = run("why", recording(file, kill(), end(), lost=lost), *NOTHING)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(
        "ktrace: nothing was seen that needs an explanation, but 23 signals events were lost;"
        f" {', '.join(sorted({*probes.names()} - {'signals', 'exits', 'oom'}))} were not traced\n"
    )


@pytest.mark.parametrize(
    "words", [("-n", "sh*", "-c", "nginx"), ("-l", "app=web"), ("-p", "sts/web", "-n", "shop")]
)
def test_by_label_namespace_and_workload(file: Path, words: tuple[str, ...]) -> None:
    told = {"app": "web", "statefulset.kubernetes.io/pod-name": "web-0"}
    pods = {
        uid: replace(p, labels=told if p.name == "web-0" else {}) for uid, p in BOTH.pods.items()
    }
    names = Names(pods, BOTH.containers)
    (verdict,) = why(recording(file, kill(), end(), end(8), names=names), *words)
    assert verdict["pod"]["name"] == "web-0"


def test_something_must_be_asked_for() -> None:
    done = run("why")
    assert done.returncode == 2
    assert "ktrace why NAMESPACE/POD, deploy/NAME or -l KEY=VALUE" in done.stderr


def test_a_pod_that_never_existed(file: Path) -> None:
    done = run("why", recording(file, kill(), end(), end(8)), "--pod", "shop/wbe-0")
    assert (done.returncode, done.stdout) == (5, "")
    assert "the nearest: shop/web-0" in done.stderr


def test_a_recording_that_is_cut_or_damaged(file: Path) -> None:
    data = Path(recording(file, kill(), end())).read_bytes()
    file.write_bytes(data[:-1])
    cut = run("why", str(file))
    assert cut.returncode == 0
    assert cut.stdout.startswith("shop/web-0 nginx: killed: SIGKILL from cron[50]")
    assert "is cut" in cut.stderr
    file.write_bytes(data[:-1] + b"x")
    assert run("why", str(file)).returncode == 6
    file.write_bytes(b"nonsense")
    damaged = run("why", str(file))
    assert (damaged.returncode, damaged.stdout) == (6, "")
    assert "this is not a ktrace recording" in damaged.stderr


def test_a_recording_that_is_not_there() -> None:
    done = run("why", "nonexistent", "--pod", "web-0")
    assert done.returncode == 2
    assert "there is no recording" in done.stderr


@pytest.mark.parametrize("name", ["nonexistent.ktrace", "/nonexistent", "./nonexistent", "/dev"])
def test_what_can_only_be_a_recording_is_not_taken_for_a_pod(name: str) -> None:
    done = run("why", name)
    assert (done.returncode, done.stdout) == (6, "")
    assert "cannot be read" in done.stderr


# Names without a recording


@pytest.fixture
def no_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with the container `db`, and a pod of podman's called `group`."""
    names = Names({"p": Pod("p", None, "group")}, {CID: Container(CID, name="db")})
    cgroup = SimpleNamespace(identity=CgroupIdentity(None, CID))
    monkeypatch.setattr(cgroupfs, "has_pods", lambda: False)
    monkeypatch.setattr(inventory, "container_cgroups", lambda: [cgroup])
    monkeypatch.setattr(inventory, "current_names", lambda socket: names)


@pytest.mark.usefixtures("no_kubernetes")
@pytest.mark.parametrize(
    ("what", "wait", "plain"),
    [
        ("db", False, True),
        ("d*", False, True),
        ("nosuch", False, False),  # not waited for: there is none
        ("nosuch", True, True),  # is still to come
        ("group", False, False),  # a pod of podman's
        ("group", True, False),
        ("shop/db", False, False),  # only pods have namespaces
        ("shop/db", True, False),
    ],
)
def test_what_can_only_be_a_container(what: str, wait: bool, plain: bool) -> None:
    assert why_command._is_plain(what, {"cri_socket": None, "wait": wait}) == plain


@pytest.mark.usefixtures("no_kubernetes")
def test_where_pods_are_a_name_is_a_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupfs, "has_pods", lambda: True)
    assert not why_command._is_plain("db", {"cri_socket": None, "wait": True})


FORGETFUL = """
import sys
from tracer.cli import main
from tracer.why import timelines
timelines.MAX_RECORDED = 1
main()
"""


def test_timelines_of_a_recording_that_were_forgotten(file: Path) -> None:
    command = [sys.executable, "-c", FORGETFUL, "why", recording(file, kill(), kill(8))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    forgotten = "1 timeline of what still runs had been forgotten, as there was too much of them"
    assert told.splitlines()[-1] == f"ktrace: {forgotten}"


def test_timelines_that_were_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Traced(Run):
        """A run in which this is what happens."""

        cannot_tell, probes, recorder = {}, (), None
        session = SimpleNamespace(  # type: ignore[assignment]
            resolver=Resolver(lambda place: None), facts=Facts()
        )
        backend = SimpleNamespace(unseen={})

        def check(self) -> None: ...

        def attach(self) -> None: ...

        def run(self) -> Summary:
            assert isinstance(self._sink, Watch)
            self._sink._timelines.forgotten = 23
            return Summary(3, 2)

    monkeypatch.setattr("tracer.session.run.Run", Traced)
    root.main(["why", "-l", "app=web"], standalone_mode=False)
    assert "; 23 timelines of what still runs" in capsys.readouterr().err
