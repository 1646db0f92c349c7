# SPDX-License-Identifier: Apache-2.0
"""`ktrace decode`: log lines of several kernels, and what must not be believed of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.decode.test_gfp import NEW
from tracer.decode import gfp
from tracer.decode.buddyinfo import parse_line
from tracer.decode.freelists import decode_buddyinfo
from tracer.decode.kind import FlagNames
from tracer.decode.text import decode
from tracer.model.units import span

NAMES = FlagNames(gfp.from_format(NEW), "this kernel")
NAMELESS = FlagNames([], "this kernel")
UID = "2de63729-d9c0-44e8-9963-cb2cd7ba2417"
CID = "99724db13d63db757f5b4d5d40eb4ef2e8c0070e2914d02123e6a8807676aa48"
POD = f"/kubepods/burstable/pod{UID}"


def first(text: str) -> str:
    lines = decode(text, NAMES)
    assert lines, text
    return lines[0]


def all_of(text: str, names: FlagNames = NAMES) -> str:
    return "\n".join(decode(text, names) or [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "exit code 0: success"),
        ("126", "exit code 126: command found but not executable"),
        ("255", "exit code 255: exit(-1), or out of range"),
        ("SIGTERM", "signal 15: SIGTERM, terminated; without a handler ends the process"),
        ("chld", "signal 17: SIGCHLD, child exited; without a handler does nothing"),
        ("kill", "signal 9: SIGKILL, killed; ends the process, no handler can prevent it"),
        ("RTMIN+3", "signal 37: SIGRTMIN+3, real-time signal 3; without a handler ends"),
        ("0x2cc0", "gfp mask 0x2cc0: GFP_KERNEL|__GFP_NOWARN"),
        ("0x80000", "gfp mask 0x80000 depends on the kernel"),
    ],
)
def test_numbers_and_names(text: str, said: str) -> None:
    assert first(text).startswith(said)


def test_137_is_not_said_to_be_a_kill() -> None:
    lines = decode("137", NAMES)
    assert lines
    assert "killed by SIGKILL, or exited by itself" in lines[0]
    assert "the number alone does not tell the two apart" in lines[1]


def test_a_small_number_is_both() -> None:
    lines = decode("9", NAMES)
    assert lines
    assert lines[0] == "exit code 9: the program's own code"
    assert lines[1].startswith("signal 9: SIGKILL")


@pytest.mark.parametrize("text", ["", "1e3", "sigfoo", "RTMIN+31", "0x", "hello you"])
def test_what_is_not_known(text: str) -> None:
    assert decode(text, NAMES) is None


def test_without_names_of_this_kernel_the_releases_name_a_mask() -> None:
    said = all_of("0xcc0", NAMELESS)
    assert "GFP_KERNEL (since 5.0)" in said
    assert "--kernel-format" in said


def test_names_of_a_file_need_no_caution() -> None:
    assert "depends on the kernel" in all_of("0xcc0")
    assert "depends on the kernel" not in all_of("0xcc0", FlagNames(NAMES.table, "format"))


ALLOCATIONS = {
    # 2.6.32
    "java: page allocation failure. order:5, mode:0xd0": (
        *(
            "java",
            5,
            "GFP_KERNEL (before 4.4; a line without their names is of a kernel before 4.6)",
        ),
    ),
    # 4.4
    "[8132.1] runc:[2:INIT]: page allocation failure: order:4, mode:0x24002c0": (
        *("runc:[2:INIT]", 4),
        "GFP_KERNEL|__GFP_NOWARN (since 4.4, before 4.10;"
        " a line without their names is of a kernel before 4.6)",
    ),
    # 4.19 and later, through journald
    "Nov 21 06:15:03 node-7 kernel: kworker/u8:3: page allocation failure: order:0,"
    " mode:0xa20(GFP_ATOMIC), nodemask=(null)": ("kworker/u8:3", 0, "GFP_ATOMIC"),
    # 6.18
    "[ 12.345678] nginx: page allocation failure: order:9, mode:0x40dc0(GFP_KERNEL|__GFP_COMP|"
    "__GFP_ZERO),nodemask=(null),cpuset=/,mems_allowed=0": (
        *("nginx", 9),
        "GFP_KERNEL|__GFP_COMP|__GFP_ZERO",
    ),
}


@pytest.mark.parametrize(("line", "facts"), ALLOCATIONS.items())
def test_page_allocation_failures(line: str, facts: tuple[str, int, str]) -> None:
    comm, order, flags = facts
    lines = decode(line, NAMES)
    assert lines
    assert f"{comm} could not allocate " in lines[0]
    assert ("one page" in lines[0]) if order == 0 else (f"order {order}: 2^{order}" in lines[0])
    assert lines[1].endswith(f": {flags}")
    assert any("in small pieces" in said for said in lines) is (order > 3)
    assert any("a single page" in said for said in lines) is (order == 0)


KILLS = {
    # 3.10 and 4.4
    "Memory cgroup out of memory: Kill process 4242 (java) score 1973 or sacrifice child": (
        *("chose to kill java, pid 4242", "the node had memory", None),
    ),
    "Killed process 4242 (java) total-vm:5123456kB, anon-rss:2097152kB, file-rss:0kB": (
        *("killed java, pid 4242", "in the lines before", "2 GiB"),
    ),
    # 4.19
    "[77.5] Memory cgroup out of memory: Killed process 7 (a) b), total-vm:1kB,"
    " anon-rss:32384kB, file-rss:852kB, shmem-rss:0kB": (
        *("killed a) b, pid 7", "the node had memory", "31.6 MiB"),
    ),
    # 5.10 and later
    "Memory cgroup out of memory: Killed process 19867 (dd) total-vm:67804kB, anon-rss:32384kB,"
    " file-rss:852kB, shmem-rss:0kB, UID:0 pgtables:104kB oom_score_adj:999": (
        *("killed dd, pid 19867", "the node had memory", "31.6 MiB"),
    ),
    "Out of memory: Killed process 11 (stress) total-vm:67804kB, anon-rss:1048576kB, file-rss:0kB,"
    " shmem-rss:0kB, UID:0 pgtables:104kB oom_score_adj:1000": (
        *("killed stress, pid 11", "whole node was out of memory", "1 GiB"),
    ),
}


@pytest.mark.parametrize(("line", "facts"), KILLS.items())
def test_kills(line: str, facts: tuple[str, str, str | None]) -> None:
    who, cause, anon = facts
    said = all_of(line)
    assert who in said.split("\n")[0]
    assert cause in said.split("\n")[0]
    assert (f"its own memory (heap, stacks): {anon}" in said) is (anon is not None)
    for score, words in ((999, "Burstable"), (1000, "BestEffort")):
        assert (words in said) is line.endswith(f"oom_score_adj:{score}")


def oom_kill(limited: str, own: str, constraint: str = "MEMCG", comm: str = "dd") -> str:
    middle = f"oom_memcg={limited}," if limited else "global_oom,"
    return (
        f"oom-kill:constraint=CONSTRAINT_{constraint},nodemask=(null),cpuset={CID},mems_allowed=0,"
        f"{middle}task_memcg={own},task={comm},pid=20050,uid=0"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (oom_kill(POD, f"{POD}/{CID}"), f"the memory limit of pod {UID} was reached"),
        (
            oom_kill(f"{POD}/{CID}", f"{POD}/{CID}"),
            f"the memory limit of container {CID[:12]} of pod {UID} was reached",
        ),
        (oom_kill("", f"{POD}/{CID}", "NONE"), "the whole node was out of memory"),
        (oom_kill("", "/", "CPUSET"), "the memory allowed by a cpuset was used up"),
        (oom_kill("/", "/"), "the memory limit of the root cgroup was reached"),
    ],
)
def test_the_oom_kill_line(line: str, said: str) -> None:
    assert first(line) == f"the OOM killer chose dd, pid 20050, uid 0: {said}"
    assert first(f"[10991.794151] {line}") == first(line)


@pytest.mark.parametrize(
    "line",
    [
        oom_kill(f"/x,oom_memcg={POD}", "/x"),
        oom_kill(POD, f"/x,oom_memcg={POD}"),
        oom_kill(POD, POD, comm="a,task=b"),
    ],
)
def test_a_name_that_imitates_the_line(line: str) -> None:
    assert "cannot be told for certain" in first(line)


def test_who_invoked_the_oom_killer_is_not_the_victim() -> None:
    line = "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-5"
    lines = decode(line, NAMES)
    assert lines
    assert lines[0] == "python3 started the OOM killer: it needed one page, 4 KiB"
    assert "not who is killed" in lines[1]
    assert "SysRq" in first(line.replace("order=0", "order=-1"))


FAULTS = {
    # before 6.12
    "app[77]: segfault at 0 ip 0000000000401136 sp 00007ffc1c6a1b10 error 6 in app[401000+1000]": (
        *("segmentation fault", "wrote to the unmapped address 0x0"),
        "in app, offset 0x136 behind the beginning of its mapping",
    ),
    "[1.0] python3.11[15494]: segfault at 8 ip 00007f8c78c7ead8 sp 00007ffea61af128 error 4 in"
    " libc.so.6[167ad8,7f8c78b3d000+156000] likely on CPU 0 (core 0, socket 0)": (
        *("segmentation fault", "read the unmapped address 0x8"),
        "in libc.so.6, offset 0x167ad8 of the file",
    ),
    "traps: app[77] trap invalid opcode ip:401136 sp:7ffd1cba1fd0 error:0 in app[401000+1000]": (
        *("invalid opcode", ""),
        "in app, offset 0x136 behind",
    ),
    "traps: app[77] general protection fault ip:401136 sp:7ffd1cba1fd0 error:0": (
        *("general protection fault", ""),
        "",
    ),
}


@pytest.mark.parametrize(("line", "facts"), FAULTS.items())
def test_faults(line: str, facts: tuple[str, str, str]) -> None:
    said = all_of(line)
    assert "crashed by its own fault" in said.split("\n")[0]
    assert all(fact in said for fact in facts)


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        (f"{POD}/{CID}", ["a container of a pod", UID, CID, "QoS class: Burstable"]),
        (POD, ["the cgroup of a pod", UID, "QoS class: Burstable"]),
        (f"0::{POD}/{CID}", [UID, CID]),
        (f"12:cpu,memory:{POD}", [UID]),
        (
            f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{CID}.scope",
            [UID, CID, "runtime: cri-o", "QoS class: Guaranteed"],
        ),
        (f"/system.slice/docker-{CID}.scope", ["the cgroup of a container", CID, "docker"]),
        ("/system.slice/sshd.service", ["no pod and no container"]),
    ],
)
def test_cgroup_paths(path: str, facts: list[str]) -> None:
    said = all_of(path)
    assert all(fact in said for fact in facts)


def test_free_lists_that_are_fragmented() -> None:
    zones = [parse_line("Node 0, zone   Normal 262144 10 0 0 0 0 0 0 0 0 0")]
    lines = decode_buddyinfo(zones, 4096)
    assert lines[0] == "1 GiB free, but fragmented: nothing in blocks of more than 8 pages"
    assert "order  1     8 KiB        10 blocks" in lines[2]
    assert lines[-1] == "  node 0 zone Normal: the largest block is 8 KiB"


@pytest.mark.parametrize("line", ["", "Node", "Node x, zone y 1", "Node 0, area DMA 1", "Node 0"])
def test_a_line_that_is_not_of_buddyinfo(line: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse_line(line)


@given(st.text(max_size=300))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    assert decode(text, NAMES) != []


PIECES = ["oom-kill:constraint=CONSTRAINT_", "MEMCG", ",oom_memcg=", ",task_memcg=", ",task=", "/"]
PIECES += [": page allocation failure: order:", "99999999", " mode:0x", "1", "(", ")", "Killed "]
PIECES += ["process ", " (", "segfault at ", "[", "] ", "ip ", "sp ", "error ", " in ", ",", "+"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_likeness_of_a_log_line(text: str) -> None:
    decode(text, NAMES)


def command(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", "decode", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_with_a_log_and_free_lists() -> None:
    log = oom_kill(POD, POD, comm="\x1b[31mevil") + "\nsomething else\n"
    done = command(given=log + "Node 0, zone DMA 1 2 3\n")
    assert done.returncode == 0
    assert "\\x1b[31mevil" in done.stdout
    assert "\x1b" not in done.stdout
    assert "112 KiB free" not in done.stdout  # 1 + 4 + 12 pages
    assert "68 KiB free" in done.stdout
    assert done.stderr == "ktrace: 1 lines said nothing to ktrace\n"


def test_the_command_with_another_kernels_format(tmp_path: Path) -> None:
    path = tmp_path / "format"
    path.write_text(NEW.replace("GFP_KERNEL", "GFP_OTHER"))
    done = command("0xcc0", "--kernel-format", str(path))
    assert done.stdout.split("\n")[0] == "gfp mask 0xcc0: GFP_OTHER"
    path.write_text("nothing")
    done = command("0xcc0", "--kernel-format", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "copy /sys/kernel/tracing" in done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_the_command_with_nothing_known(arguments: list[str]) -> None:
    done = command(*arguments, given="nonsense\n")
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "what can be decoded: 137" in done.stderr


@pytest.mark.parametrize(
    ("nanoseconds", "words"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (80_000, "80 µs"),
        (1_500_000_000, "1.5 s"),
        (-30_000_000_000, "30 s"),
        (59_990_000_000, "1 min"),
        (150_000_000_000, "2.5 min"),
        (7_200_000_000_000, "2 h"),
        (864_000_000_000_000, "10 d"),
    ],
)
def test_spans(nanoseconds: int, words: str) -> None:
    assert span(nanoseconds) == words
