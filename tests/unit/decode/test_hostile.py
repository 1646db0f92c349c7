# SPDX-License-Identifier: Apache-2.0
"""Whatever somebody feeds it: no exception, bounded time, nothing that terminals or shells obey."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer.decode import eras, freelists
from tracer.decode.kind import THIS_KERNEL, FlagNames
from tracer.decode.lines import read
from tracer.decode.text import Decoder, decode

NOBODY = FlagNames([], THIS_KERNEL)
TEXTS = [
    json.loads(line)["text"]
    for line in Path(__file__).with_name("samples.jsonl").read_text(encoding="utf-8").splitlines()
]
WORDS = sorted({word for text in TEXTS for word in re.split(r"(\W)", text) if word})
ODD = ["\0", "\x1b[31m", "\udc80", "\u2028", "9" * 5000, "0x" + "f" * 5000, "\r\n", "{" * 2000]


@given(st.lists(st.sampled_from(WORDS + ODD), max_size=40).map("".join))
def test_any_mixture_of_words(text: str) -> None:
    assert decode(text, NOBODY) != []


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.data())
def test_any_two_halves(one: str, other: str, data: st.DataObject) -> None:
    at, behind = (data.draw(st.integers(0, len(text))) for text in (one, other))
    middle = data.draw(st.sampled_from(["", "\n", " ", *ODD]))
    decode(one[:at] + middle + other[behind:], NOBODY)


@given(st.text(max_size=400))
@example('"\r0')
def test_any_line_is_read(text: str) -> None:
    line = read(text)
    assert line.text == line.text.strip()


@given(st.integers(0, (1 << 64) - 1))
def test_any_mask_has_words(mask: int) -> None:
    assert all(reading.words for reading in eras.readings(mask))
    assert decode(hex(mask), NOBODY)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.sampled_from(["", "(UME)", "(C)", "(H)", "(UC)"])),
        min_size=1,
        max_size=11,
    ),
    st.sampled_from(["Normal", "Node 0 DMA32", "Node 13 Normal"]),
)
def test_blocks_that_are_set_aside(blocks: list[tuple[int, str]], zone: str) -> None:
    lists = " ".join(
        f"{count}*{4 << at}kB {types}".strip() for at, (count, types) in enumerate(blocks)
    )
    line = f"{zone}: {lists} = 4kB"
    every, for_all = freelists.of_log(line), freelists.of_log(line, for_all=True)
    assert every and for_all and every[0] == for_all[0] == 4096
    assert every[1]["free"] == [count for count, _ in blocks]
    assert for_all[1]["free"] == [
        0 if types in ("(C)", "(H)") else count for count, types in blocks
    ]


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_characters="/\n\0"), min_size=1, max_size=60))
def test_a_suggested_command_quotes_the_uid(uid: str) -> None:
    for line in decode(f"/kubepods/pod{uid}", NOBODY) or []:
        if "grep" in line:
            words = shlex.split(line.partition("| ")[2])
            assert words[:3] == ["grep", "-F", "-e"]
            assert len(words) == 4


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "invoked oom-killer",
            "Task in /",
            "exit code ",
            "Node ",
            "Killed process 1 (",
            "a ",
            "/a",
        ),
        *(
            "[",
            "1,",
            "oom-kill:constraint=CONSTRAINT_A,",
            ",task=",
            "unhandled exception: ",
            "type=",
        ),
        *("kubepods/", "page allocation failure", "exit" + " " * 80, "SYN flooding on port ", "\0"),
        *(
            "Detected 1 oom-kill event in a",
            "Killing container with a grace period pod=",
            "1*4kB (C) ",
        ),
        *(
            "Sending SIGKILL to cgroup {",
            "cache: a(1:",
            "namespace path: lstat /",
            "Normal: 1*4kB ",
        ),
    ],
)
def test_a_long_line_takes_no_long_time(unit: str) -> None:
    """The command gives lines in pieces of 64 KiB."""
    text = (unit * (65536 // len(unit) + 1))[:65536]
    begun = time.process_time()
    decode(text, NOBODY)
    assert time.process_time() - begun < 5


def test_memory_does_not_grow_with_the_input() -> None:
    decoder = Decoder(NOBODY)
    for number in range(20_000):
        decoder.feed(f"Node {number % 9999}, zone Normal 1 2 3 4 5")
        decoder.feed(f"Node {number % 9999}, zone Normal, type Movable 1 2 3 4 5")
        decoder.feed(f"Memory cgroup out of memory: Killed process {number} (a) total-vm:1kB,")
        decoder.feed("Tasks in /a are going to be killed due to memory.oom.group set")
    kept = [vars(block) for block in decoder._blocks]
    for block in kept:
        block.pop("_kernel", None)
        block.pop("_steps", None)
    assert len(pickle.dumps(kept)) < 4 << 20


def test_the_command_with_bytes_that_are_no_text() -> None:
    evil = b"\xff\xfe\0" + b"A" * 300_000 + b"\n\x1b[2J" + b"\n"
    evil += (
        b"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    )
    evil += b"task_memcg=/,task=\x1b]0;evil\x07\xff,pid=1,uid=0\n"
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "decode"],
        input=evil,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert b"\\x1b]0;evil\\x07" in done.stdout
    assert b"Traceback" not in done.stderr
