# SPDX-License-Identifier: Apache-2.0
"""ktrace tells what a script tells that one writes by hand (sg.stp), line for line."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kernel.checks import TIMES, pid_options
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, Idle
from tests.support.wait import wait_for

KILL = int(signal.SIGKILL)
MODULE = "/lab/sg.ko"


@contextmanager
def guide(output: Path) -> Iterator[None]:
    with output.open("wb") as file:
        process = subprocess.Popen(["staprun", MODULE], stdout=file)
    try:
        wait_for("the script to run", lambda: output.read_bytes().startswith(b"ready\n"), 60)
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_the_old_script_line_for_line(tmp_path: Path) -> None:
    with ExitStack() as stack:
        killer = stack.enter_context(Actor())
        targets = [stack.enter_context(Idle()) for _ in range(TIMES)]
        stack.enter_context(guide(tmp_path / "sg"))
        options = pid_options(target.pid for target in targets)
        ktrace = stack.enter_context(Ktrace("signals", *options, "--no-headers", output="wide"))
        for target in targets:
            killer.do("kill", target.pid, KILL)
            assert target.wait() == -KILL
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0
        told = [in_the_words_of_the_guide(line) for line in ktrace.output.decode().splitlines()]
    killed = [f"(pid:{target.pid})" for target in targets]
    lines = (tmp_path / "sg").read_text().splitlines()
    wanted = [line for line in lines if any(target in line for target in killed)]
    assert len(wanted) == TIMES
    assert told == wanted


def in_the_words_of_the_guide(line: str) -> str:
    _, name, sender, origin, target, pod, _, result, code, uid, exe, *_, ancestry = re.split(
        r"\s{2,}", line.strip()
    )
    assert (origin, pod, result, code) == ("host", "–", "delivered", "SI_USER")
    assert Path(exe).is_file()
    by, to = (re.fullmatch(r"(.*)\[(\d+)\]", who) for who in (sender, target))
    assert by and to
    chain = ancestry.replace(" → ", "=>")
    return f"{name} was sent to {to[1]} (pid:{to[2]}) by {by[1]} uid:{uid} {chain}"
