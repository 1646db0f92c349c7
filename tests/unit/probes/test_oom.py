# SPDX-License-Identifier: Apache-2.0
"""What becomes of an OOM kill: the kernel's event, the log's report, and what is believed of it."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from tests.unit.bounds import Bound
from tests.unit.records import Decoding
from tracer.decode import gfp
from tracer.kernel.bpf_object import shipped
from tracer.kernel.hierarchies import Hierarchy
from tracer.kernel.kmsg import Line
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.names import Container, Names
from tracer.model.units import size
from tracer.probes.oom import PROBE, decoder
from tracer.probes.oom.companion import LogCompanion, Report, Reports

SCHEMAS = shipped("oom").schemas
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
POD_PATH = f"/kubepods/burstable/pod{UID}"
PATH = f"{POD_PATH}/{CID}"
MIB = 1 << 20
BOUNDS = {
    "records that explain an OOM kill, before the kill itself": Bound(
        ("test_explanations_that_wait_are_bounded",), (decoder.MAX_PENDING,)
    )
}

# 6.18
LOG = f"""python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL|__GFP_ZERO), order=0, \
oom_score_adj=-5
CPU: 0 UID: 0 PID: 23438 Comm: python3 Not tainted 6.18.44 #1 PREEMPT(none)
memory: usage 32768kB, limit 32768kB, failcnt 73
memory+swap: usage 32768kB, limit 9007199254740988kB, failcnt 0
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents \
oom_score_adj name
[  23439]  1000 23439      730      425        0      425         0    45056        0          \
  -5 a name, [x]
[  23438]     0 23438    20526     9753     8096     1657         0   122880        0            0 \
python3
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={CID},mems_allowed=0,oom_memcg={PATH},\
task_memcg={PATH},task=python3,pid=23438,uid=0
Memory cgroup out of memory: Killed process 23438 (python3) total-vm:82104kB""".splitlines()
# 5.10
OLD_TITLES = "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name"
OLD_ROW = "[  23438]     0 23438    20526     9753   122880        0             0 python3"


def lines(*texts: str) -> list[Line]:
    return [Line(1000 + at, text) for at, text in enumerate(texts)]


def reports(*texts: str) -> list[Report]:
    return list(Reports(page_size=4096).feed(lines(*texts)))


def test_a_report() -> None:
    (report,) = reports(*LOG)
    assert (report.order, report.gfp, report.gfp_names) == (0, 0xCC0, "GFP_KERNEL|__GFP_ZERO")
    assert (report.usage, report.limit) == (32 * MIB, 32 * MIB)
    assert report.pid == 23438
    assert report.words.endswith(f"task_memcg={PATH}")
    assert [(t["pid"], t["comm"], t["uid"]) for t in report.tasks] == [
        (23439, "a name, [x]", 1000),
        (23438, "python3", 0),
    ]
    assert report.tasks[1]["anon"] == 8096 * 4096
    assert report.tasks[0]["score_adj"] == -5


def test_a_report_of_an_old_kernel() -> None:
    (report,) = reports(LOG[0], OLD_TITLES, OLD_ROW, LOG[8])
    (task,) = report.tasks
    assert (task["rss"], task["anon"], task["file"], task["shmem"]) == (9753 * 4096, -1, -1, -1)


def test_half_a_report_is_none() -> None:
    assert reports(*LOG[1:]) == []
    assert reports(*LOG[:8]) == []
    gap = lines(*LOG)
    gap[4] = Line(1, LOG[4], after_gap=True)
    assert list(Reports().feed(gap)) == []


def test_a_report_that_comes_in_two_readings() -> None:
    found = Reports()
    assert list(found.feed(lines(*LOG[:5]))) == []
    (report,) = found.feed(lines(*LOG[5:]))
    assert len(report.tasks) == 2


class World:
    """Descriptions of a victim and a trigger, and what the probe makes of records about them."""

    def __init__(self, path: str = PATH) -> None:
        self.resolver = Decoding(PROBE)
        self.resolver.add_path(7, path)
        self.resolver.add_path(8, POD_PATH)

    def take(self, name: str, **values: Any) -> Event[Any] | None:
        (record,) = SCHEMAS[name].cells(memoryview(cell(SCHEMAS[name].pack(**values))))
        return self.resolver.decode[name](record)

    def process(self, pid: int, reference: int) -> None:
        self.resolver.add_process(
            SimpleNamespace(
                **dict.fromkeys(("exe_bytes", "exe_whole", "exe_deleted", "argv_bytes"), 0),
                **dict.fromkeys(("exec_id", "uid", "init_cgroup", "start", "thread_start"), 0),
                ancestors=0,
                **{"exe": b"", "argv": b"", "comm": b"java\0", "ancestry": b""},
                **{"pid": pid, "tid": pid, "pid_in_pod": 1, "pid_level": 1, "cgroup": 7},
                **{"process": reference, "kernel_thread": 1},
            )
        )

    def kill(self, **values: Any) -> Event[Any]:
        self.process(23438, 1)
        known = {"time": 5000, "victim_process": 1, "victim_pid": 23438, "victim_tid": 23438}
        known |= {"memory_anon": 30 * MIB, "limit": -1, "usage": -1, "trigger_pid": 9}
        event = self.take("oom", **(known | values))
        assert event
        return event

    def log(self, *texts: str, **values: Any) -> None:
        (report,) = reports(*(texts or LOG))
        companion = LogCompanion(SCHEMAS, "/nonexistent")
        raw = companion._record(report)
        (record,) = SCHEMAS["oom_log"].cells(memoryview(cell(raw)))
        self.resolver.decode["oom_log"](record._replace(**values))


def body(event: Event) -> Any:
    return orjson.loads(to_json(event, Clock(0), "node"))


def test_the_log_completes_the_event() -> None:
    world = World()
    world.log()
    seen = body(world.kill())
    assert seen["scope"] == "cgroup"
    assert seen["cgroup_path"] == PATH
    assert seen["limit_of"] == "container"
    assert (seen["limit_bytes"], seen["usage_bytes"]) == (32 * MIB, 32 * MIB)
    assert seen["order"] == 0
    assert seen["gfp_flags"] == ["GFP_KERNEL", "__GFP_ZERO"]
    assert [row["pid"] for row in seen["largest"]] == [23438, 23439]
    assert seen["largest"][1]["comm"] == "a name, [x]"
    assert seen["victim"]["comm"] == "java"
    assert seen["victim"]["anon_bytes"] == 30 * MIB
    assert seen["victim"]["is_container_init"] is True
    assert seen["pod"]["uid"] == UID
    assert seen["members"] == []


def test_without_a_log_the_rest_is_unknown() -> None:
    seen = body(World().kill())
    for key in ("scope", "cgroup_path", "limit_of", "limit_bytes", "usage_bytes", "order"):
        assert seen[key] is None
    assert seen["gfp_flags"] is None
    assert seen["largest"] is None


def test_a_log_alone_is_no_event() -> None:
    world = World()
    world.log()
    assert body(world.kill(victim_pid=5, victim_tid=5))["largest"] is None


def test_the_log_of_another_time_is_not_taken() -> None:
    world = World()
    world.log(time=decoder.SAME_KILL_NS + 6000)
    assert body(world.kill())["largest"] is None


def test_a_report_is_taken_once() -> None:
    world = World()
    world.log()
    world.kill()
    assert body(world.kill())["largest"] is None


def test_what_the_kernel_told_counts_more_than_its_log() -> None:
    world = World()
    world.log()
    raw = gfp.pack([(1, "GFP_DMA")], 100)
    world.take("gfp_names", names=raw, names_bytes=len(raw))
    known = {"asked": 1, "gfp": 1, "order": 3, "scope": 1, "limit_cgroup": 8}
    seen = body(world.kill(limit=MIB, usage=5, **known))
    assert (seen["order"], seen["gfp_flags"]) == (3, ["GFP_DMA"])
    assert (seen["limit_bytes"], seen["usage_bytes"]) == (MIB, 5)
    assert (seen["cgroup_path"], seen["limit_of"]) == (POD_PATH, "pod")
    assert seen["largest"]


def test_no_limit_is_no_number() -> None:
    seen = body(World().kill(limit=(1 << 63) - 4096, scope=1, asked=1, order=-1))
    assert seen["limit_bytes"] is None
    assert seen["order"] is None


KILL = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={},mems_allowed=0,"
KILL += "oom_memcg={},task_memcg={},task=python3,pid=23438,uid=0"


AMBIGUOUS = "/a,mems_allowed=0,oom_memcg=/b"


@pytest.mark.parametrize(
    ("own", "cpuset", "limited", "told", "believed"),
    [
        (PATH, "/", POD_PATH, PATH, POD_PATH),
        (PATH, "/", "/", PATH, "/"),
        (PATH, "/", PATH, PATH, PATH),
        # another cgroup than the kernel's event says
        (PATH, "/", "/elsewhere", "/elsewhere", None),
        # not around the victim
        (PATH, "/", "/elsewhere", PATH, None),
        (PATH, "/", PATH + "x", PATH, None),
        (PATH, "/", PATH[:-1], PATH, None),
        # names that look like the line
        (f"{PATH}/a,oom_memcg=", "/", PATH, f"{PATH}/a,oom_memcg=", PATH),
        (PATH, "x,oom_memcg=/fake", PATH, PATH, PATH),
        (PATH, "x,oom_memcg=/", PATH, PATH, None),  # "/,mems_allowed=…" is no cgroup, see below
        (f"{PATH}/,task_memcg=/", "/", PATH, f"{PATH}/,task_memcg=/", PATH),
        # two readings are none
        (AMBIGUOUS, "x,oom_memcg=/a", "/", AMBIGUOUS, None),
    ],
)
def test_whose_limit_is_believed(
    own: str, cpuset: str, limited: str, told: str, believed: str | None
) -> None:
    world = World(own)
    world.log(LOG[0], KILL.format(cpuset, limited, told))
    seen = body(world.kill())
    if cpuset == "x,oom_memcg=/":
        believed = limited
    assert seen["cgroup_path"] == believed
    assert seen["scope"] == "cgroup"


def test_the_whole_machine() -> None:
    world = World()
    words = (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    )
    world.log(LOG[0], words + f"task_memcg={PATH},task=x,oom_memcg=/,pid=23438,uid=0")
    event = world.kill()
    assert body(event)["scope"] == "system"
    assert body(event)["cgroup_path"] is None
    assert PROBE.summary(event) == "java[23438] killed: the node is out of memory, 30 MiB anonymous"


@pytest.mark.parametrize("before", [True, False])
def test_members_of_a_group(before: bool) -> None:
    """Before the event where its end is awaited, else behind it."""
    world = World()
    member = {"first": 5000, "victim_pid": 77, "victim_tid": 77, "memory_anon": -1}
    if before:
        assert world.take("oom_member", **member) is None
    event = world.kill()
    if not before:
        assert world.take("oom_member", **member) is None
    assert world.take("oom_member", **(member | {"first": 4999})) is None
    (seen,) = body(event)["members"]
    assert seen["pid"] == 77
    assert seen["anon_bytes"] is None
    assert PROBE.summary(event).endswith(", and 1 more of its group")


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        (PATH, "container"),
        (f"{PATH}/init.scope", "other"),
        (POD_PATH, "pod"),
        ("/kubepods/burstable", "other"),
        ("/", "other"),
        (f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice", "pod"),
        (
            f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{CID}.scope",
            "container",
        ),
        (None, None),
    ],
)
def test_whose_limit_it_is(path: str | None, whose: str | None) -> None:
    assert decoder._limit_of(path) == whose


def test_a_summary() -> None:
    world = World()
    world.log()
    event = world.kill()
    assert PROBE.summary(event) == (
        "java[23438] killed: container limit 32 MiB reached, 30 MiB anonymous"
    )
    assert PROBE.alarm(event)
    unknown = World("/").kill()
    assert PROBE.summary(unknown) == "java[23438] killed: out of memory, 30 MiB anonymous"
    assert not PROBE.alarm(unknown)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 * MIB, "512 MiB"),
        (511.6 * MIB, "512 MiB"),
        (1023.99 * MIB, "1 GiB"),
        (1.25 * 1024 * MIB, "1.2 GiB"),
        (3 << 60, "3072 PiB"),
        (None, None),
    ],
)
def test_sizes(count: int | None, words: str | None) -> None:
    assert size(count) == words


def test_the_columns_fit_in_60() -> None:
    """Besides the time and the sign, which take 17: what is lost last is the victim, its limit and
    its pod."""
    last = [c for c in PROBE.columns if c.rank <= 2 and not c.wide]
    assert [c.title for c in last] == ["VICTIM", "LIMIT", "POD"]
    assert 17 + sum(c.narrow for c in last) + 2 * (len(last) - 1) <= 60


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    companion = LogCompanion(SCHEMAS, str(tmp_path / "missing"))
    assert companion.records(frozenset()) == []
    _names_of_flags, unread = companion.records(frozenset({"oom"}))
    assert companion.records(frozenset({"oom"})) == []
    companion.close()
    world = World()
    (record,) = SCHEMAS["oom_unread"].cells(memoryview(cell(unread)))
    world.resolver.decode["oom_unread"](record)
    assert body(world.kill())["unknown_because"] == (
        "the kernel log cannot be read: No such file or directory"
    )


def test_why_it_is_unknown_whose_limit_it_was() -> None:
    known = World()
    known.log()
    assert "unknown_because" not in body(known.kill())
    assert "unknown_because" not in body(World().kill(scope=2))  # nobody's
    without = body(World().kill())["unknown_because"]
    assert without == "the kernel log has no whole report of it"
    undescribed = body(World().kill(scope=1, limit_cgroup=99))["unknown_because"]
    assert undescribed.startswith("the description of the cgroup")
    other = World()
    other.log(words=b"oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/b")
    assert body(other.kill())["unknown_because"].endswith("so that it can be believed")


def test_what_cannot_be_told_without_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("tracer.probes.oom.KernelLog", refuse)
    for point in PROBE.attach_points:
        (more,) = point.here().cannot_tell[len(point.cannot_tell) :]
        assert more.endswith("because the kernel log cannot be read: Operation not permitted")


# What counted at a pod's limit

PAUSE = "e" * 64
POD_LOG = [line.replace(f"oom_memcg={PATH}", f"oom_memcg={POD_PATH}") for line in LOG]


def cgroup(directory: Path, version: int, limit: str, usage: int, shmem: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    limits, usages, total = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        2: ("memory.max", "memory.current", ""),
    }[version]
    (directory / limits).write_text(f"{limit}\n")
    (directory / usages).write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"anon 1\n{total}shmem {shmem}\n")


@pytest.mark.parametrize(("version", "none"), [(1, "9223372036854771712"), (2, "max")])
def test_what_counted_in_the_pod(tmp_path: Path, version: int, none: str) -> None:
    top = Path(f"{tmp_path}{POD_PATH}")
    cgroup(top, version, str(32 * MIB), 30 * MIB, 24 * MIB)
    cgroup(top / CID, version, str(32 * MIB), 5 * MIB, 0)
    cgroup(top / PAUSE, version, none, MIB, 0)
    companion = LogCompanion(SCHEMAS, "/nonexistent", lambda: Hierarchy(0, str(tmp_path), version))
    (report,) = reports(*POD_LOG)
    world = World()
    world.resolver.learn(Names(containers={CID: Container(CID, name="app")}))
    for raw in companion._shares(report):
        (record,) = SCHEMAS["oom_share"].cells(memoryview(cell(raw)))
        assert world.resolver.decode["oom_share"](record) is None
    world.log(*POD_LOG)
    seen = body(world.kill())
    assert seen["limit_of"] == "pod"
    assert [(p["container"], p["limit_bytes"]) for p in seen["memory"]["parts"]] == [
        ("app", 32 * MIB),
        (None, None),
    ]
    assert seen["memory"]["left"]["shmem_bytes"] == 24 * MIB
    assert seen["memory"]["left"]["usage_bytes"] == 24 * MIB
    assert decoder.limit_owner(seen) == "container"


def test_the_container_of_the_victim_may_be_gone_already(tmp_path: Path) -> None:
    """The kernel side has told its limit, and what it had at that moment."""
    top = Path(f"{tmp_path}{POD_PATH}")
    cgroup(top, 1, str(32 * MIB), 2 * MIB, 0)
    cgroup(top / PAUSE, 1, "9223372036854771712", MIB, 0)
    companion = LogCompanion(SCHEMAS, "/nonexistent", lambda: Hierarchy(0, str(tmp_path), 1))
    (report,) = reports(*POD_LOG)

    def killed(own: bool) -> Any:
        world = World()
        for raw in companion._shares(report):
            (record,) = SCHEMAS["oom_share"].cells(memoryview(cell(raw)))
            world.resolver.decode["oom_share"](record)
        world.log(*POD_LOG)
        if own:
            world.take("oom_own", first=5000, cgroup=7, limit=32 * MIB, usage=31 * MIB)
        return body(world.kill())

    seen = killed(own=True)
    assert [(p["container_id"], p["limit_bytes"]) for p in seen["memory"]["parts"]] == [
        (PAUSE, None),
        (CID, 32 * MIB),
    ]
    assert seen["memory"]["parts"][1]["usage_bytes"] == 31 * MIB
    assert decoder.limit_owner(seen) == "container"
    assert "memory" not in killed(own=False), "half a table proves nothing"


@pytest.mark.parametrize("path", [PATH, "/", "/kubepods/../../etc", "/kubepods/pod/../x"])
def test_what_is_no_pod_is_not_looked_at(path: str) -> None:
    def nobody_asks() -> Hierarchy | None:
        raise AssertionError(path)

    (report,) = reports(*(line.replace(f"oom_memcg={PATH}", f"oom_memcg={path}") for line in LOG))
    assert LogCompanion(SCHEMAS, "/nonexistent", nobody_asks)._shares(report) == []


def test_a_pod_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    companion = LogCompanion(SCHEMAS, "/nonexistent", lambda: Hierarchy(0, str(tmp_path), 2))
    (report,) = reports(*POD_LOG)
    assert companion._shares(report) == []
    world = World()
    world.log(*POD_LOG)
    seen = body(world.kill())
    assert "memory" not in seen
    assert decoder.limit_owner(seen) == "pod"


def test_shares_are_bounded(tmp_path: Path) -> None:
    top = Path(f"{tmp_path}{POD_PATH}")
    for number in range(decoder.MAX_PARTS + 9):
        cgroup(top / f"nested-{number}", 2, "max", 1, 0)
    companion = LogCompanion(SCHEMAS, "/nonexistent", lambda: Hierarchy(0, str(tmp_path), 2))
    (report,) = reports(*POD_LOG)
    assert len(companion._shares(report)) == decoder.MAX_PARTS + 1


def test_explanations_that_wait_are_bounded() -> None:
    stream = Decoding(PROBE)
    of: dict[str, str] = {"oom_log": "pid", "oom_share": "pid", "oom_own": "first"}
    of["oom_member"] = "first"
    for number in range(1, decoder.MAX_PENDING + 9):
        for kind, key in of.items():
            (record,) = SCHEMAS[kind].cells(memoryview(cell(SCHEMAS[kind].pack(**{key: number}))))
            stream.decode[kind](record)
    keeping = stream.decode["oom_log"].__self__  # type: ignore[attr-defined]
    for table in (keeping._logs, keeping._shares, keeping._own, keeping._lists):
        assert list(table) == list(range(9, decoder.MAX_PENDING + 9))
