# SPDX-License-Identifier: Apache-2.0
"""OOM kills that really happen: in a cgroup of the tests' own, and in a guest of the machine.

Where functions can be probed everything is known of every kill. Elsewhere a part comes from the
kernel log, which reports ten kills in five seconds and no more: then it is all of that part, or
nothing.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Self

from tests.kernel.checks import (
    TIMES,
    Event,
    check_circumstances,
    check_complete,
    exits_of,
)
from tests.kernel.checks import signals_to as signals_of
from tests.support.cgroups import memory_cgroup, move
from tests.support.ktrace import BACKEND, HAS_KPROBES, Ktrace
from tests.support.raisers import check_process, facts
from tests.support.wait import wait_for
from tracer import backends, probes
from tracer.kernel.hierarchies import hierarchies

KILL = int(signal.SIGKILL)
MIB = 1 << 20
LIMIT = 32 * MIB
# Only where something is unknown, and only of a pod.
OPTIONAL_KEYS = ("unknown_because", "memory")
OOM_KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "scope", "victim", "trigger"]
OOM_KEYS += ["cgroup_path", "limit_of", "limit_bytes", "usage_bytes", "order", "gfp_flags"]
OOM_KEYS += ["members", "largest"]
MEMORY = ["anon_bytes", "file_bytes", "shmem_bytes", "oom_score_adj", "is_container_init"]
FROM_LOG = ["scope", "cgroup_path", "limit_bytes", "usage_bytes", "order", "gfp_flags"]

EATER = """
import ctypes, sys
ctypes.CDLL(None).prctl(1, 9)
eaten = []
print("ready", flush=True)
for line in sys.stdin:
    eaten.append(b"x" * (int(line) << 20))
    print("done", flush=True)
"""


class Eater:
    """A process that takes as much memory as it is told, and keeps it."""

    def __init__(self, cgroup: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [os.path.realpath(sys.executable), "-I", "-S", "-c", EATER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self._process.pid
        assert self._process.stdin and self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == b"ready\n"
        if cgroup:
            move(self.pid, cgroup)
        self.facts = facts(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._orders.close()
        self._answers.close()

    def eat(self, megabytes: int) -> bool:
        """Whether it has survived that."""
        self._orders.write(b"%d\n" % megabytes)
        return bool(self._answers.readline() == b"done\n")

    def wait(self) -> int:
        return self._process.wait(60)


@functools.cache
def knows_all() -> bool:
    """Without the kernel log."""
    probe = probes.get("oom")
    backend = backends.choose(BACKEND, [probe])
    backend.attach([probe], {})
    backend.close()
    return not backend.attached["oom"].cannot_tell


def oom_of(events: Iterable[Event], pids: Iterable[int]) -> list[Event]:
    wanted = set(pids)
    return [e for e in events if e["kind"] == "oom" and e["victim"]["pid"] in wanted]


def check_victim(seen: dict[str, Any], expected: dict[str, Any], megabytes: int) -> None:
    """`megabytes` is what it had eaten at least."""
    assert list(seen)[-len(MEMORY) :] == MEMORY
    check_process({k: v for k, v in seen.items() if k not in MEMORY}, expected)
    # Less, because what CPUs have not added up yet is missing: 64 pages for each of a small
    # machine. More, because what it had before it was moved into the cgroup is not charged there.
    assert (megabytes - 2) * MIB <= seen["anon_bytes"] <= LIMIT + 16 * MIB
    assert 0 <= seen["file_bytes"] < 64 * MIB
    assert seen["shmem_bytes"] == 0
    assert seen["oom_score_adj"] == 0
    assert seen["is_container_init"] is None


def check_oom(
    event: Event,
    victim: dict[str, Any],
    trigger: dict[str, Any],
    cgroup: Path,
    megabytes: int = 24,
) -> bool:
    """Whether that was known that is in the log."""
    assert [key for key in event if key not in OPTIONAL_KEYS] == OOM_KEYS
    check_circumstances(event)
    check_victim(event["victim"], victim, megabytes)
    check_process(event["trigger"], trigger)
    if event["largest"] is not None:
        check_largest(event["largest"], victim)
    if not knows_all() and event["largest"] is None:
        assert [event[key] for key in FROM_LOG] == [None] * len(FROM_LOG)
        assert event["limit_of"] is None
        return False
    assert event["scope"] == "cgroup"
    assert event["cgroup_path"] == f"/{cgroup.name}"
    assert event["limit_of"] == "other"
    assert event["limit_bytes"] == LIMIT
    assert LIMIT - MIB <= event["usage_bytes"] <= LIMIT
    assert event["order"] == 0
    assert event["gfp_flags"]
    assert all(flag.startswith(("GFP_", "__GFP_")) for flag in event["gfp_flags"])
    return event["largest"] is not None


def check_largest(largest: list[dict[str, Any]], victim: dict[str, Any]) -> None:
    sizes = [row["rss_bytes"] for row in largest]
    assert sizes == sorted(sizes, reverse=True)
    (row,) = [row for row in largest if row["pid"] == victim["pid"]]
    assert row["comm"] == victim["comm"]
    assert row["uid"] == victim["uid"]
    assert row["rss_bytes"] >= 24 * MIB
    assert row["oom_score_adj"] == 0
    parts = [row["anon_bytes"], row["file_bytes"], row["shmem_bytes"]]
    assert parts == [None] * 3 or sum(parts) == row["rss_bytes"]


# kprobes do as well as fentry, which is taken where both are
WAYS = [None, ("oom", 1)] if HAS_KPROBES else [None]


@pytest.mark.parametrize("only", WAYS, ids=["first", "kprobe"][: len(WAYS)])
def test_processes_over_their_limit(only: tuple[str, int] | None) -> None:
    with Ktrace("oom", "--all", only=only) as ktrace, memory_cgroup(LIMIT) as cgroup:
        expected = []
        for _ in range(TIMES):
            with Eater(cgroup) as eater:
                expected.append(eater.facts)
                assert not eater.eat(64)
                assert eater.wait() == -KILL
        events = oom_of(ktrace.stop(), [process["pid"] for process in expected])
        check_complete(ktrace, events)
        known = [
            check_oom(event, process, process, cgroup)
            for event, process in zip(events, expected, strict=True)
        ]
        assert any(known), "the kernel log told nothing of any kill"
        assert all(event["members"] == [] for event in events)


def test_the_trigger_is_not_the_victim() -> None:
    """The larger one dies for the smaller one, which goes on. On a machine so busy that the larger
    one cannot leave in time the kernel kills the smaller one as well: that is tried again."""
    assert any(dies_for_the_smaller() for _ in range(5))


def dies_for_the_smaller() -> bool:
    with (
        Ktrace("oom", "--all") as ktrace,
        memory_cgroup(LIMIT) as cgroup,
        Eater(cgroup) as small,
        Eater(cgroup) as large,
    ):
        assert large.eat(24)
        if not small.eat(12):
            return False
        assert large.wait() == -KILL
        events = oom_of(ktrace.stop(), [small.pid, large.pid])
        check_complete(ktrace, events, 1)
        check_oom(events[0], large.facts, small.facts, cgroup, 20)
        return True


def test_a_child_of_a_parent_that_lives() -> None:
    with Ktrace("oom", "--all") as ktrace, memory_cgroup(LIMIT) as cgroup:
        program = "import os, sys; os.fork() or exec('b = b\"x\" * (64 << 20)'); print(os.wait())"
        argv = [sys.executable, "-I", "-S", "-c", program]
        join = f"echo $$ > {cgroup}/cgroup.procs; exec "
        parent = subprocess.run(
            ["sh", "-c", join + '"$@"', "-", *argv], capture_output=True, text=True, check=True
        )
        victim, status = map(int, parent.stdout.strip("()\n").split(", "))
        assert os.WTERMSIG(status) == KILL
        events = oom_of(ktrace.stop(), [victim])
        check_complete(ktrace, events, 1)
        assert events[0]["victim"]["argv"] == argv
        assert events[0]["trigger"]["pid"] == victim


def test_a_limit_further_up() -> None:
    """It is the limit of the cgroup around the victim's own."""
    with Ktrace("oom", "--all") as ktrace, memory_cgroup(LIMIT) as cgroup:
        inner = cgroup / "inner"
        inner.mkdir()
        with Eater(inner) as eater:
            assert not eater.eat(64)
            assert eater.wait() == -KILL
            events = oom_of(ktrace.stop(), [eater.pid])
        wait_for("the inner cgroup to be empty", lambda: not (inner / "cgroup.procs").read_text())
        inner.rmdir()
        check_complete(ktrace, events, 1)
        check_oom(events[0], eater.facts, eater.facts, cgroup)


def test_a_forged_log_is_not_believed() -> None:
    """Neither the lines of a user process, nor those in the name of a cgroup. After many kills the
    kernel keeps its own report back, and only the forged one is there."""
    with Ktrace("oom", "--all") as ktrace, memory_cgroup(LIMIT) as cgroup, ExitStack() as stack:
        inner = cgroup / "x,oom_memcg=,task_memcg=,task=init,pid=1,uid=0"
        inner.mkdir()
        victims = [stack.enter_context(Eater(inner)) for _ in range(12)]
        bystander = stack.enter_context(Eater())
        forge(bystander.pid)
        for victim in victims:
            forge(victim.pid)
            assert not victim.eat(64)
            assert victim.wait() == -KILL
        events = oom_of(ktrace.stop(), [bystander.pid, 1, *(victim.pid for victim in victims)])
        wait_for("the inner cgroup to be empty", lambda: not (inner / "cgroup.procs").read_text())
        inner.rmdir()
        check_complete(ktrace, events, len(victims))
        for event, victim in zip(events, victims, strict=True):
            check_oom(event, victim.facts, victim.facts, cgroup)


def forge(pid: int) -> None:
    lines = [
        "<4>liar invoked oom-killer: gfp_mask=0x1(FORGED), order=9, oom_score_adj=0",
        "<6>memory: usage 1kB, limit 1kB, failcnt 1",
        "<6>[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
        f"<6>[{pid:7}]     0 {pid:5}        1   999999            0        0             0 liar",
        "<6>oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        f"oom_memcg=/,task_memcg=/,task=liar,pid={pid},uid=0",
        f"<3>Memory cgroup out of memory: Killed process {pid} (liar)",
    ]
    for line in lines:
        Path("/dev/kmsg").write_text(line)


@pytest.mark.any_kernel
def test_without_a_kernel_log() -> None:
    """What the kernel's event tells stays; the rest is unknown."""
    hide = 'mount --bind /dev/null /dev/kmsg && exec "$@"'
    ktrace = Ktrace("oom", "--all", inside=["unshare", "--mount", "sh", "-c", hide, "-"])
    with ktrace, memory_cgroup(LIMIT) as cgroup, Eater(cgroup) as eater:
        assert not eater.eat(64)
        assert eater.wait() == -KILL
        events = oom_of(ktrace.stop(), [eater.pid])
        check_complete(ktrace, events, 1)
        assert not check_oom(events[0], eater.facts, eater.facts, cgroup)
        assert events[0]["largest"] is None


def test_the_signal_the_kill_and_the_end_belong_together() -> None:
    with (
        Ktrace("trace", "signals,oom,exits", "--all") as ktrace,
        memory_cgroup(LIMIT) as cgroup,
        Eater(cgroup) as eater,
    ):
        assert not eater.eat(64)
        assert eater.wait() == -KILL
        events = ktrace.stop()
        (sent,) = signals_of(events, eater.pid)
        (killed,) = oom_of(events, [eater.pid])
        (ended,) = exits_of(events, eater.pid)
        assert (sent["signal"]["name"], sent["origin"]) == ("SIGKILL", "kernel")
        assert sent["boot_ns"] <= killed["boot_ns"] < sent["boot_ns"] + 100_000_000
        assert killed["boot_ns"] < ended["boot_ns"]
        assert ended["signal"]["name"] == "SIGKILL"
        seen = {k: v for k, v in killed["victim"].items() if k not in MEMORY}
        assert seen == sent["target"] == ended["process"]


@pytest.mark.any_kernel
def test_chosen_by_pid_and_not_without_a_pod() -> None:
    with (
        memory_cgroup(LIMIT) as cgroup,
        Eater(cgroup) as one,
        Eater(cgroup) as two,
        Ktrace("oom") as pods_only,
        Ktrace("oom", "--pid", str(two.pid)) as chosen,
    ):
        for eater in (one, two):
            assert not eater.eat(64)
            assert eater.wait() == -KILL
        assert oom_of(pods_only.stop(), [one.pid, two.pid]) == []
        assert [event["victim"]["pid"] for event in chosen.stop()] == [two.pid]


@pytest.mark.any_kernel
def test_table() -> None:
    with (
        Ktrace("oom", "--all", "--no-headers", output="table") as ktrace,
        memory_cgroup(LIMIT) as cgroup,
        Eater(cgroup) as eater,
    ):
        assert not eater.eat(64)
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0
        lines = ktrace.output.decode().splitlines()
        (line,) = (line for line in lines if f"[{eater.pid}]" in line)  # others may have died, too
        if knows_all():
            assert "32 MiB" in line


# Only version 2 has it, where it can be turned on.
if hierarchies() and all(h.version == 2 for h in hierarchies()):
    GROUPS = 5  # three processes each: an emulated machine takes its time

    def test_a_group_is_one_event() -> None:
        with Ktrace("oom", "--all") as ktrace:
            for _ in range(GROUPS):
                group_kill(ktrace)

    def group_kill(ktrace: Ktrace) -> None:
        before = len(ktrace.events)
        with memory_cgroup(LIMIT) as cgroup:
            (cgroup / "memory.oom.group").write_text("1")
            with Eater(cgroup) as one, Eater(cgroup) as two, Eater(cgroup) as three:
                group = {eater.pid: eater for eater in (one, two, three)}
                assert not three.eat(64)
                assert [eater.wait() for eater in group.values()] == [-KILL] * 3
                wait_for("the event", lambda: len(ktrace.events) > before, 60)
                (event,) = oom_of(ktrace.events[before:], group)
                assert event["victim"]["pid"] == three.pid
                check_oom(event, three.facts, three.facts, cgroup)
                members = {member["pid"]: member for member in event["members"]}
                assert sorted(members) == sorted([one.pid, two.pid])
                for pid, member in members.items():
                    seen = {k: v for k, v in member.items() if k not in MEMORY}
                    check_process(seen, group[pid].facts)
                    assert list(member)[-len(MEMORY) :] == MEMORY


# The whole machine runs out of memory: only where it is a guest that was made for tests.
if os.environ.get("KTRACE_GUEST"):

    def test_the_whole_machine() -> None:
        with Ktrace("oom", "--all") as ktrace, Eater() as eater:
            Path(f"/proc/{eater.pid}/oom_score_adj").write_text("1000")
            while eater.eat(64):
                pass
            assert eater.wait() == -KILL
            events = oom_of(ktrace.stop(), [eater.pid])
            check_complete(ktrace, events, 1)
            (event,) = events
            assert list(event) == OOM_KEYS
            assert event["scope"] == "system"
            for key in ("cgroup_path", "limit_of", "limit_bytes", "usage_bytes"):
                assert event[key] is None
            assert event["order"] is not None
            assert event["gfp_flags"]
            assert event["victim"]["oom_score_adj"] == 1000
            assert event["victim"]["anon_bytes"] > 32 * MIB
            check_process(
                {k: v for k, v in event["victim"].items() if k not in MEMORY}, eater.facts
            )
            assert event["largest"][0]["pid"] == eater.pid
