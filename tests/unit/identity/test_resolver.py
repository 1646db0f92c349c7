# SPDX-License-Identifier: Apache-2.0
"""From the kernel's descriptions to processes, places and names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.support.growth import growth
from tests.unit import records
from tests.unit.records import ancestry, argv, cgroup_path, exe
from tracer.identity import arguments
from tracer.identity import resolver as module
from tracer.identity.arguments import Arguments
from tracer.identity.resolver import Resolver
from tracer.model.batch import cell
from tracer.model.event import Place, Process
from tracer.model.names import Container, Names, Pod

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
POD_PATH = f"/kubepods/burstable/pod{UID}"
PATH = f"{POD_PATH}/{CID}"

NAMED = Names(
    {UID: Pod(UID, "shop", "web-0", {"app": "web"})},
    {CID: Container(CID, "containerd", "nginx", UID, 4711)},
)


@dataclass
class Known:
    """A resolver and the places that it told of."""

    resolver: Resolver
    told: list[Place]
    arguments: Arguments

    def describe(self, **values: Any) -> Process:
        values = {"process": 1, "pid": 10, "tid": 10, "comm": b"nginx", **values}
        cells = self.arguments.complete(cell(records.pack("process", **values)))
        (record,) = records.schemas()["process"].cells(cells)
        self.resolver.add_process(record)
        return self.resolver.process(values["process"], 0, 0)

    def cgroup(self, number: int = 5, path: str | bytes = PATH, *, whole: bool = True) -> Place:
        described = records.record("cgroup", cgroup=number, **cgroup_path(path, whole=whole))
        self.resolver.add_cgroup(described)
        place = self.resolver.place(number)
        assert place is not None
        return place


def make_known() -> Known:
    told: list[Place] = []
    return Known(Resolver(told.append), told, Arguments(records.schemas()["process"]))


@pytest.fixture
def known() -> Known:
    return make_known()


# Processes


def test_a_description_becomes_a_process(known: Known) -> None:
    place = known.cgroup()
    init_place = known.cgroup(6, POD_PATH)
    process = known.describe(
        pid=10,
        tid=11,
        uid=1000,
        pid_in_pod=3,
        pid_level=2,
        start=77,
        cgroup=5,
        init_cgroup=6,
        comm=b"nginx\0rest",
        **exe("/usr/sbin/nginx"),
        **argv("nginx", "-g", "daemon off;"),
        **ancestry((9, "sh"), (1, "systemd")),
    )
    assert (process.pid, process.tid, process.uid) == (10, 11, 1000)
    assert (process.pid_in_pod, process.pid_level, process.start_boot_ns) == (3, 2, 77)
    assert (process.comm, process.exe) == ("nginx", "/usr/sbin/nginx")
    assert process.argv == ["nginx", "-g", "daemon off;"]
    assert process.ancestry == [(9, "sh"), (1, "systemd")]
    assert process.place is place
    assert process.init_place is init_place
    assert not process.kernel_thread


def test_a_lost_description_leaves_the_numbers(known: Known) -> None:
    process = known.resolver.process(99, 10, 11)
    assert (process.pid, process.tid) == (10, 11)
    unknown = [process.comm, process.exe, process.argv, process.place, process.uid]
    assert unknown == [None] * 5


def test_a_pid_that_is_unknown_in_the_pod_is_null(known: Known) -> None:
    assert known.describe(pid_in_pod=0).pid_in_pod is None


def test_what_is_behind_the_first_ancestors_is_not_read(known: Known) -> None:
    values = ancestry((9, "sh"), (8, "left over"))
    assert known.describe(**{**values, "ancestors": 1}).ancestry == [(9, "sh")]


def test_sixteen_ancestors(known: Known) -> None:
    links = [(100 - level, f"level {level}") for level in range(16)]
    assert known.describe(**ancestry(*links)).ancestry == links


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, None),
        (exe("/usr/bin/nginx"), "/usr/bin/nginx"),
        (exe("/nginx"), "/nginx"),
        (exe("/usr/bin/nginx", deleted=True), "/usr/bin/nginx (deleted)"),
        (exe("deep/down/nginx", whole=False), "…/deep/down/nginx"),
        (exe("deep/nginx", whole=False, deleted=True), "…/deep/nginx (deleted)"),
        (exe(b"/opt/\xff\n/x"), "/opt/\\xff\n/x"),
        # a memfd's one name may hold slashes
        (
            {
                "exe": b"memfd:runc_cloned:/proc/self/exe\0",
                "exe_bytes": 33,
                "exe_whole": 1,
                "exe_deleted": 1,
            },
            "/memfd:runc_cloned:/proc/self/exe (deleted)",
        ),
        # what stands behind the path is of an earlier record
        ({"exe": b"x\0old\0", "exe_bytes": 2, "exe_whole": 1}, "/x"),
    ],
)
def test_the_program(known: Known, values: dict[str, Any], shown: str | None) -> None:
    assert known.describe(**values).exe == shown


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (argv("sh", "-c", ""), ["sh", "-c", ""]),
        (argv("one"), ["one"]),
        ({"argv": b"no end", "argv_bytes": 6}, ["no end"]),
        ({"argv": b"sh\0old rest\0", "argv_bytes": 3}, ["sh"]),
        (argv(b"\xff\xfe", "ü"), ["\\xff\\xfe", "ü"]),
        (argv("a" * 1000, "b" * 100, "c"), ["a" * 1000, "b" * 23]),
    ],
)
def test_the_arguments(known: Known, values: dict[str, Any], words: list[str]) -> None:
    assert known.describe(**values).argv == words


def test_arguments_of_nobody_are_unknown(known: Known) -> None:
    assert known.describe().argv is None
    assert known.describe(kernel_thread=1).argv is None
    assert known.describe(kernel_thread=1).kernel_thread


def test_a_later_description_keeps_what_exec_told(known: Known) -> None:
    """While a process dies it has no memory left to read a program or arguments from."""
    image = {"tid": 10, "thread_start": 50, "exec_id": 2}
    known.describe(process=1, **image, **exe("/bin/nginx"), **argv("nginx", "-q"))
    dying = known.describe(process=2, uid=33, **image)
    assert (dying.exe, dying.argv, dying.uid) == ("/bin/nginx", ["nginx", "-q"], 33)
    again = known.describe(process=3, **image)
    assert again.argv == ["nginx", "-q"]


@pytest.mark.parametrize("change", [{"tid": 11}, {"thread_start": 51}, {"exec_id": 3}])
def test_another_image_knows_nothing_of_it(known: Known, change: dict[str, int]) -> None:
    image = {"tid": 10, "thread_start": 50, "exec_id": 2}
    known.describe(process=1, **image, **exe("/bin/nginx"), **argv("nginx"))
    other = known.describe(process=2, **{**image, **change})
    assert (other.exe, other.argv) == (None, None)


def test_what_a_description_tells_itself_counts(known: Known) -> None:
    image = {"tid": 10, "thread_start": 50, "exec_id": 2}
    known.describe(process=1, **image, **exe("/bin/nginx"), **argv("nginx"))
    renamed = known.describe(process=2, **image, **exe("/bin/other"), **argv("other"))
    assert (renamed.exe, renamed.argv) == ("/bin/other", ["other"])


# Arguments from /proc


def myself() -> dict[str, Any]:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return {
        "pid": os.getpid(),
        "tid": os.getpid(),
        "start": ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") + 5,
        **exe(os.readlink("/proc/self/exe")),
    }


def test_arguments_are_read_from_a_process_that_is_still_there(known: Known) -> None:
    assert known.describe(**myself()).argv == psutil.Process().cmdline()


def test_arguments_of_another_process_with_the_same_pid_are_not_taken(known: Known) -> None:
    assert known.describe(**{**myself(), "start": 1 << 60}).argv is None


def test_arguments_of_another_program_are_not_taken(known: Known) -> None:
    assert known.describe(**{**myself(), **exe("/bin/other")}).argv is None


def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be read from /proc."""
    monkeypatch.setattr(arguments, "_image_from_proc", lambda pid, most: None)


def test_arguments_that_were_remembered_outlive_the_process(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.arguments.remember([os.getpid(), 1 << 22])
    gone(monkeypatch)
    assert known.describe(**myself()).argv == psutil.Process().cmdline()


@pytest.mark.parametrize("change", [{"start": 1 << 60}, {"pid": 7}, exe("/bin/other")])
def test_arguments_that_were_remembered_of_another_are_not_taken(
    known: Known, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    known.arguments.remember([os.getpid()])
    gone(monkeypatch)
    assert known.describe(**{**myself(), **change}).argv is None


def test_not_too_many_arguments_are_remembered(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "MAX_RUNNING", 2)
    monkeypatch.setattr(arguments, "_image_from_proc", lambda pid, most: (pid, "/bin/x", b"x\0"))
    known.arguments.remember([1, 2, 3])
    gone(monkeypatch)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    found = [
        known.describe(process=pid, pid=pid, tid=pid, start=pid * tick, **exe("/bin/x")).argv
        for pid in (1, 2, 3)
    ]
    assert found == [None, ["x"], ["x"]]


def test_a_storm_of_processes_does_not_become_a_storm_of_reads(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.5]
    monkeypatch.setattr(arguments, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = [known.describe(**myself(), process=n, exec_id=n).argv for n in range(1, 300)]
    assert found.count(None) == 299 - arguments.PROC_READS_A_SECOND
    now[0] = 1001.5
    assert known.describe(**myself(), process=400, exec_id=400).argv is not None


# Bounds


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("MAX_PROCESSES", "MAX_IMAGES", "MAX_PLACES"):
        monkeypatch.setattr(module, table, 10_000)
    known = make_known()
    for number in range(1, 50):
        known.cgroup(number)
        known.describe(process=number, pid=number, exec_id=number, **argv(f"of {number}"))
    assert known.resolver.process(49, 0, 0).comm == "nginx"
    assert known.resolver.unknown == 0
    assert known.resolver.process(1, 0, 0).comm is None
    assert known.resolver.process(50, 0, 0).comm is None
    assert known.resolver.unknown == 1, "the other was never described, which is counted elsewhere"
    kept = [place.cgroup for place in known.resolver.places()]
    assert 3 < len(kept) < 10
    assert kept == list(range(50 - len(kept), 50))
    image_of_1 = known.describe(process=60, pid=1, exec_id=1)
    assert image_of_1.argv is None


def test_a_frugal_one_remembers_less_of_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as much of what lives."""
    for table in ("DEAD", "PROCESSES", "IMAGES", "NAMES"):
        monkeypatch.setattr(module, f"MAX_{table}", 400_000)
        monkeypatch.setattr(module, f"FRUGAL_{table}", 20_000)
    monkeypatch.setattr(arguments, "MAX_IMAGES", 400_000)
    monkeypatch.setattr(arguments, "FRUGAL_IMAGES", 20_000)
    kept = []
    for frugal in (False, True):
        resolver = Resolver(lambda place: None, frugal=frugal)
        known = Known(resolver, [], Arguments(records.schemas()["process"], frugal=frugal))
        for number in range(1, 200):
            known.cgroup(number)
            known.describe(process=number, pid=number, exec_id=number, **argv("x"))
            if number > 100:
                resolver.end_cgroup(SimpleNamespace(cgroup=number, time=1))
        live = [place for place in resolver.places() if place.ended is None]
        assert len(live) == 100
        kept.append((len(resolver._dead), len(resolver._processes), len(resolver._images)))
    assert all(less * 3 < more for more, less in zip(*kept, strict=True))


@pytest.mark.parametrize("large", ["exe", "argv", "cgroup", "labels"])
def test_tables_are_bounded_in_bytes(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of what others choose stands in a description."""
    bound = 50_000
    for table in [name for name in vars(module) if name.startswith("MAX_")]:
        monkeypatch.setattr(module, table, bound)
    monkeypatch.setattr(arguments, "MAX_IMAGES", bound)
    known = Known(Resolver(lambda place: None), [], Arguments(records.schemas()["process"]))

    def live(number: int) -> None:
        uid, container = f"{number:032x}", f"{number:064x}"
        path = f"/kubepods/pod{uid}/{container}" + "/x" * 13 * (large == "cgroup")
        path = path.replace("/x", f"/{'x' * 250}")
        told = {
            "exe": exe(f"/{number}/" + "e" * 240 + "/" + "\U0001f600" * 50),
            "argv": argv(*["a" * 3] * 200, f"{number}"),
        }
        labels = {f"{number}-{n}": "v" * 63 for n in range(50 * (large == "labels"))}
        known.resolver.learn(
            Names({uid: Pod(uid, "shop", f"{number}", labels)}, {container: Container(container)})
        )
        known.cgroup(number, path)
        known.describe(
            **{"process": number, "pid": number, "exec_id": number, "cgroup": number},
            **told.get(large, {}),
        )

    live(1)
    with growth() as grown:
        for number in range(2, 400):
            live(number)
            if number % 2:
                end = records.record("cgroup_end", cgroup=number, time=number)
                known.resolver.end_cgroup(end)
    # Places of what is there and of what is gone, pods, processes, programs (here and in
    # `arguments`), names of pods and of containers.
    assert grown() < 8 * bound * 1.5
    assert known.resolver.process(399, 0, 0).comm is not None


def test_a_process_that_events_still_refer_to_outlives_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel side does not describe it again while it is in use."""
    monkeypatch.setattr(module, "MAX_PROCESSES", 10_000)
    known = make_known()
    known.describe(process=1, comm=b"containerd-shim")
    for number in range(2, 100):
        known.describe(process=number, exec_id=number)
        assert known.resolver.process(1, 0, 0).comm == "containerd-shim"
    assert known.resolver.process(2, 0, 0).comm is None


def test_of_removed_cgroups_only_the_last_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lives stays, however many come and go."""
    monkeypatch.setattr(module, "MAX_DEAD", 12_000)
    known = make_known()
    living = known.cgroup(1)
    for number in range(2, 100):
        known.cgroup(number)
        known.resolver.end_cgroup(records.record("cgroup_end", cgroup=number, time=number))
    kept = {place.cgroup for place in known.resolver.places()}
    assert 5 < len(kept) < 20
    assert kept == {1, *range(101 - len(kept), 100)}
    assert known.resolver.place(1) is living
    known.resolver.end_cgroup(
        records.record("cgroup_end", cgroup=7, time=7)
    )  # of none that is known
    assert len(known.resolver.places()) == len(kept)


def test_processes_of_removed_cgroups_go_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEAD", 12_000)
    monkeypatch.setattr(module, "SWEEP", 10)
    known = make_known()
    for number in range(1, 100):
        known.cgroup(number)
        known.describe(process=number, exec_id=number, cgroup=number)
        if number != 1:
            known.resolver.end_cgroup(records.record("cgroup_end", cgroup=number, time=number))
    assert known.resolver.process(2, 0, 0).comm is None
    assert known.resolver.process(1, 0, 0).comm == "nginx"
    assert known.resolver.process(99, 0, 0).comm == "nginx"


def test_the_names_of_what_lives_outlast_those_that_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source tells them once."""
    monkeypatch.setattr(module, "MAX_NAMES", 10_000)
    known = make_known()
    known.cgroup()
    known.resolver.learn(NAMED)
    for n in range(100):
        pod, container = f"{n:032x}", f"{n:064x}"
        names = Names({pod: Pod(pod, "shop", f"p{n}")}, {container: Container(container)})
        known.resolver.learn(names)
    assert len(known.resolver.names.pods) < 30
    assert len(known.resolver.names.containers) < 30
    again = known.cgroup(6, f"{PATH}/nested")
    assert again.pod is not None
    assert again.container is not None
    assert (again.pod.name, again.container.name) == ("web-0", "nginx")


def test_a_cgroup_that_is_gone_is_told(known: Known) -> None:
    ended: list[Place] = []
    resolver = Resolver(lambda place: None, ended.append)
    resolver.add_cgroup(records.record("cgroup", cgroup=5, **cgroup_path(PATH)))
    place = resolver.place(5)
    resolver.end_cgroup(records.record("cgroup_end", cgroup=5, time=9))
    assert ended == [place]


# Places and names


def test_a_place_is_told_with_what_its_path_says(known: Known) -> None:
    place = known.cgroup()
    assert known.told == [place]
    assert place.path == PATH
    assert (place.identity.pod_uid, place.identity.container_id) == (UID, CID)
    assert place.pod == Pod(UID)
    assert place.container == Container(CID)


def test_a_place_that_is_described_again_is_the_same(known: Known) -> None:
    known.resolver.learn(NAMED)
    place = known.cgroup()
    assert known.cgroup(path="/other") is place
    assert place.path == PATH
    assert known.told == [place, place], "the kernel side has forgotten what was decided on it"


def test_a_place_knows_when_it_was_first_described_and_when_it_ended(known: Known) -> None:
    for time in (7, 8):
        described = records.record("cgroup", time=time, cgroup=5, **cgroup_path(PATH))
        known.resolver.add_cgroup(described)
    place = known.resolver.place(5)
    assert place is not None
    assert (place.began, place.ended) == (7, None)
    known.resolver.end_cgroup(records.record("cgroup_end", time=9, cgroup=5))
    assert (place.began, place.ended, place.path) == (7, 9, PATH)


def test_the_end_of_a_place_that_is_not_known_means_nothing(known: Known) -> None:
    known.resolver.end_cgroup(records.record("cgroup_end", time=9, cgroup=5))
    assert known.resolver.places() == []


def test_a_place_that_was_only_referred_to_began_nobody_knows_when(known: Known) -> None:
    known.describe(cgroup=5)
    place = known.resolver.place(5)
    assert place is not None
    assert (place.began, place.ended) == (None, None)


def test_a_path_that_is_not_whole_is_no_path(known: Known) -> None:
    place = known.cgroup(path=PATH, whole=False)
    assert place.path is None
    assert place.pod is None


def test_the_root_cgroup_has_a_path(known: Known) -> None:
    known.resolver.add_cgroup(records.record("cgroup", cgroup=1, path_whole=1))
    root = known.resolver.place(1)
    assert root is not None
    assert root.path == "/"


def test_bytes_that_are_no_text_stay_readable(known: Known) -> None:
    assert known.cgroup(path=b"/a\xff/b\x1b[31m").path == "/a\\xff/b\x1b[31m"


def test_names_that_are_known_are_given_at_once(known: Known) -> None:
    known.resolver.learn(NAMED)
    place = known.cgroup()
    assert place.pod == NAMED.pods[UID]
    assert place.container == NAMED.containers[CID]


def test_names_that_come_later_reach_earlier_processes(known: Known) -> None:
    known.cgroup()
    process = known.describe(cgroup=5)
    assert process.pod == Pod(UID)
    before = process.json()
    changed = known.resolver.learn(NAMED)
    assert [place.cgroup for place in changed] == [5]
    assert process.pod == NAMED.pods[UID]
    assert process.container == NAMED.containers[CID]
    assert process.json() != before
    assert known.resolver.learn(NAMED) == []


def test_names_stay_when_the_source_has_forgotten_the_pod(known: Known) -> None:
    place = known.cgroup()
    known.resolver.learn(NAMED)
    assert known.resolver.learn(Names()) == []
    assert place.pod == NAMED.pods[UID]
    assert place.container == NAMED.containers[CID]


def test_a_source_that_knows_less_takes_nothing_away(known: Known) -> None:
    """The runtime forgets a deleted pod with its labels before its log directory is gone."""
    place = known.cgroup()
    known.resolver.learn(NAMED)
    less = Names({UID: Pod(UID, "shop", "web-0")}, {CID: Container(CID)})
    known.resolver.learn(less)
    assert place.pod == NAMED.pods[UID]
    assert place.container == NAMED.containers[CID]


def test_what_changes_is_taken_over(known: Known) -> None:
    place = known.cgroup()
    known.resolver.learn(NAMED)
    relabelled = Pod(UID, "shop", "web-0", {"app": "web", "broken": "yes"})
    known.resolver.learn(Names({UID: relabelled}, {}))
    assert place.pod == relabelled


def test_the_path_tells_the_runtime_when_no_source_does(known: Known) -> None:
    place = known.cgroup(path=f"{POD_PATH}/crio-{CID}")
    assert place.container == Container(CID, runtime="cri-o")
    known.resolver.learn(Names({}, {CID: Container(CID, name="nginx")}))
    assert place.container == Container(CID, runtime="cri-o", name="nginx")


def test_a_place_outside_of_pods_never_gets_a_name(known: Known) -> None:
    place = known.cgroup(path="/user.slice")
    known.resolver.learn(NAMED)
    assert (place.pod, place.container) == (None, None)


def test_a_pod_that_the_path_does_not_tell_is_told_by_the_runtime(known: Known) -> None:
    place = known.cgroup(path=f"/machine.slice/libpod-{CID}.scope")
    assert (place.pod, place.container) == (None, Container(CID, "podman"))
    pod = Pod("d6701ec289c5", "", "shop")
    told = Names({pod.uid: pod}, {CID: Container(CID, "podman", "web", pod.uid)})
    assert known.resolver.learn(told) == [place]
    assert (place.pod, place.container) == (pod, told.containers[CID])


def test_no_runtime_takes_a_container_out_of_the_pod_of_its_path(known: Known) -> None:
    place = known.cgroup(path=f"{POD_PATH}/{CID}")
    told = Names({"x": Pod("x", "shop", "other")}, {CID: Container(CID, name="web", pod_uid="x")})
    known.resolver.learn(told)
    assert place.pod is not None and place.pod.uid != "x"


def test_a_process_whose_cgroup_was_lost_is_nowhere(known: Known) -> None:
    process = known.describe(cgroup=5)
    assert process.place is None or process.place.path is None
    assert (process.pod, process.container) == (None, None)


def test_a_cgroup_that_was_lost_is_described_again_and_its_processes_learn_it(
    known: Known,
) -> None:
    """The kernel side describes a cgroup until it has found room; a process only once."""
    process = known.describe(cgroup=5)
    before = process.json()
    known.cgroup(5)
    assert process.pod == Pod(UID)
    assert process.container == Container(CID)
    assert process.json() != before
