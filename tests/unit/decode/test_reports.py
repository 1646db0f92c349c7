# SPDX-License-Identifier: Apache-2.0
"""Whole reports of the kernel: one answer each, whatever stands between their lines."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from tracer.decode.kind import THIS_KERNEL, Answer, FlagNames
from tracer.decode.text import Decoder

NOBODY = FlagNames([], THIS_KERNEL)
UID = "2de63729-d9c0-44e8-9963-cb2cd7ba2417"
CID = "99724db13d63db757f5b4d5d40eb4ef2e8c0070e2914d02123e6a8807676aa48"
POD = f"/kubepods/burstable/pod{UID}"


def answers(lines: Iterable[str]) -> list[Answer]:
    decoder = Decoder(NOBODY)
    found = [answer for line in lines for answer in decoder.feed(line)]
    return found + decoder.end()


def said(lines: Iterable[str]) -> str:
    """Of the only answer."""
    (answer,) = answers(lines)
    return "\n".join(answer)


def report(
    pid: int = 4711,
    *,
    release: str = "6.12.28",
    mask: str = "0xcc0(GFP_KERNEL)",
    comm: str = "java",
) -> list[str]:
    """As since 5.0, by a container's limit."""
    return [
        f"{comm} invoked oom-killer: gfp_mask={mask}, order=0, oom_score_adj=986",
        f"CPU: 3 UID: 0 PID: {pid} Comm: {comm} Not tainted {release} #1",
        "Call Trace:",
        " dump_stack+0x5c/0x80",
        "memory: usage 524288kB, limit 524288kB, failcnt 189",
        "swap: usage 0kB, limit 9007199254740988kB, failcnt 0",
        f"Memory cgroup stats for {POD}/{CID}:",
        "anon 4280025088",
        "Tasks state (memory values in pages):",
        "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
        f"[   {pid}]     0  {pid}  2480905   131072  10964000        0           986 {comm}",
        "[     12]     0    12       10       16     32768        0           986 sh",
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={CID},mems_allowed=0,"
        f"oom_memcg={POD}/{CID},task_memcg={POD}/{CID},task={comm},pid={pid},uid=0",
        f"Memory cgroup out of memory: Killed process {pid} ({comm}) total-vm:9923620kB,"
        " anon-rss:524288kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:10708kB"
        " oom_score_adj:986",
        f"oom_reaper: reaped process {pid} ({comm}), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
    ]


def old_report() -> list[str]:
    """As 3.10 writes it: a child dies in place of who was chosen."""
    return [
        "java invoked oom-killer: gfp_mask=0xd0, order=0, oom_score_adj=-998",
        "CPU: 2 PID: 52 Comm: java Tainted: G    B          ------------ T 3.10.0-327.el7.x86_64",
        f"Task in {POD}/{CID} killed as a result of limit of {POD}",
        "memory: usage 524288kB, limit 524288kB, failcnt 189",
        "Memory cgroup out of memory: Kill process 50 (java) score 0 or sacrifice child",
        "Killed process 51 (sh) total-vm:20255636kB, anon-rss:466160kB, file-rss:13684kB",
    ]


def test_one_report_is_one_answer() -> None:
    told = said(report())
    assert told.startswith(
        f"the OOM killer killed java, pid 4711: the memory limit of container {CID[:12]} of pod"
        f" {UID} was reached\n"
    )
    for words in (
        "memory: 512 MiB of a limit of 512 MiB, which was hit 189 times",
        "1 process died",
        "its own memory (heap, stacks): 512 MiB",
        "who asked for memory last: java, for one page",
        "GFP_KERNEL",
        "the largest of 2 processes: java (4711) 512 MiB, sh (12) 64 KiB",
        "kernel 6.12.28",
        f"grep -F -e {UID}",
    ):
        assert words in told
    assert "swap" not in told


@pytest.mark.parametrize(
    "prefix",
    [
        "[ 5193605.506728] ",
        "May 15 23:09:30 node-1 kernel: [  518.061172] ",
        "10.0.0.1: kern: warning: [2025-06-04T04:51:57.560293906Z]: ",
        "6,1234,5678901,-;",
    ],
)
def test_prefixes_change_nothing_but_the_time(prefix: str) -> None:
    bare = said(report()).split("\n")
    told = said([prefix + line for line in report()]).split("\n")
    at = [number for number, line in enumerate(told) if line not in bare]
    assert len(at) == 1
    assert told[at[0]].startswith("  kernel 6.12.28, at ")


def test_the_kernel_of_the_report_chooses_the_tables() -> None:
    assert "GFP_KERNEL|__GFP_COMP" in said(report(mask="0x40d0", release="3.10.0-327.el7"))
    assert "GFP_ATOMIC" in said(report(mask="0x480020", release="4.18.0-305.el8"))
    early = said(
        line.replace("pgtables:10708kB", "pgtables:10964992kB") for line in report(release="5.4.3")
    )
    assert "page tables: 10.5 MiB (bytes" in early
    later = said(
        line.replace("pgtables:10708kB", "pgtables:10964992kB") for line in report(release="5.10.3")
    )
    assert "page tables: 10.5 GiB" in later


def test_an_old_report_whose_child_died() -> None:
    told = said(old_report())
    assert told.startswith(f"the OOM killer killed sh, pid 51: the memory limit of pod {UID} was")
    assert "in place of java, pid 50: a child, or a thread, of that process" in told
    assert f"it ran in container {CID[:12]} of pod {UID}" in told
    assert "GFP_KERNEL" in told
    assert "kernel 3.10.0-327.el7.x86_64" in told


def test_all_of_a_group_die() -> None:
    group = [
        f"Tasks in {POD}/{CID} are going to be killed due to memory.oom.group set",
        *(
            f"Memory cgroup out of memory: Killed process {pid} (worker) total-vm:8kB,"
            " anon-rss:4kB, file-rss:0kB, shmem-rss:0kB"
            for pid in range(100, 123)
        ),
    ]
    told = said([*report(), *group])
    assert "24 processes died: java (4711), worker (100)" in told
    assert "and 16 more" in told
    assert "memory.oom.group is set" in told


def test_reports_one_after_the_other_with_others_between() -> None:
    lines: list[str] = []
    for pid in (1, 2, 3):
        for line in report(pid):
            lines += [line, f"node-1 systemd[1]: Started something {pid}"]
    found = answers(lines)
    assert [answer[0].split(":")[0] for answer in found] == [
        f"the OOM killer killed java, pid {pid}" for pid in (1, 2, 3)
    ]


def test_a_crash_in_the_middle_is_told_by_itself() -> None:
    lines = report()
    lines.insert(5, "app[77]: segfault at 0 ip 401136 sp 7ffc1c6a1b10 error 6 in app[401000+1000]")
    first, second = answers(lines)
    assert first[0].startswith("app, pid 77, crashed")
    assert second[0].startswith("the OOM killer killed java")


def test_what_grep_left_of_reports() -> None:
    kept = [line for line in [*report(1), *report(2)] if "oom" in line or "Killed" in line]
    found = answers(kept)
    assert len(found) == 2
    assert all(f"pid {pid}: the memory limit of" in found[pid - 1][0] for pid in (1, 2))
    killed = [line for line in [*report(1), *report(2)] if "Killed process" in line]
    assert [answer[0].split(":")[0] for answer in answers(killed)] == [
        f"the OOM killer killed java, pid {pid}" for pid in (1, 2)
    ]


def test_the_whole_node() -> None:
    lines = [
        "stress invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0,"
        " oom_score_adj=1000",
        "Mem-Info:",
        "Node 0 DMA free:15864kB min:48kB low:60kB high:72kB",
        "Node 0 Normal free:45016kB min:67584kB low:84480kB high:101376kB",
        "Node 0 Normal: 11254*4kB (UME) 0*8kB 0*16kB = 45016kB",
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        f"task_memcg={POD}/{CID},task=stress,pid=9,uid=0",
        "Out of memory: Killed process 9 (stress) total-vm:1kB, anon-rss:1kB, file-rss:0kB,"
        " shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:1000",
    ]
    told = said(lines)
    assert "pid 9: the whole node was out of memory" in told
    assert "node 0 zone Normal: 44 MiB free, below its reserve of 66 MiB; the largest block" in told
    assert "node 0 zone DMA: 15.5 MiB free" in told
    assert UID in told


def test_an_allocation_that_failed_with_its_free_lists() -> None:
    lines = [
        "docker: page allocation failure: order:4, mode:0x1040d0",
        "CPU: 0 PID: 1 Comm: docker Not tainted 3.10.0-327.el7.x86_64 #1",
        "Node 0 Normal: 262144*4kB (UEM) 10*8kB (M) 0*16kB 0*32kB 0*64kB = 1048656kB",
    ]
    told = said(lines)
    assert "flags, as kernel 3.10.0-327.el7.x86_64 counts them: GFP_KERNEL|__GFP_COMP" in told
    assert "free lists: order 4: 1 GiB free, none of it in blocks of 64 KiB or more" in told


def test_a_page_of_64_kib() -> None:
    lines = [line for line in report() if "pages" not in line]
    lines.insert(4, "Node 0 Normal: 100*64kB (UME) 0*128kB 1*256kB (U) = 6656kB")
    told = said(lines)
    assert "one page, 64 KiB" in told
    assert "java (4711) 8 GiB" in told


def test_a_report_is_told_when_nothing_more_comes() -> None:
    """`dmesg -w | ktrace decode`: the pipe stays open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer", "decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write("\n".join([*report(), ""]).encode())
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0]
        assert b"the OOM killer killed java, pid 4711" in process.stdout.readline()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


def test_a_log_of_many_years_is_quick_and_small() -> None:
    """Lines of a log that mean nothing, and 200 reports with 500 tasks each between them."""
    decoder = Decoder(NOBODY)
    begun, kills = time.process_time(), 0
    for number in range(200):
        lines = report(number + 1)
        lines[11:11] = [f"[  {pid}]     0  {pid}  100  50  4096  0  0 sh" for pid in range(500)]
        lines += [f"usb 1-{at}: new high-speed device" for at in range(200)]
        kills += sum(len(decoder.feed(f"[ 12.345678] {line}")) for line in lines)
    kills += len(decoder.end())
    assert kills == 200
    assert time.process_time() - begun < 60
    assert decoder.unknown > 0
