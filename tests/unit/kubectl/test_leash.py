# SPDX-License-Identifier: Apache-2.0
"""A command on a leash: it ends when nobody holds the other end, in whichever way that happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.wait import wait_for
from tracer.cli import leash

# Something that goes on until Ctrl-C, and then ends in order.
GOES_ON = """
import signal, sys
from tracer.cli import leash
ended = []
def goes_on():
    signal.signal(signal.SIGINT, lambda *_: ended.append(1) if {obeys} else None)
    print("begun", flush=True)
    while not ended:
        signal.pause()
    print("ended in order", flush=True)
    sys.exit(4)
import tracer.cli
tracer.cli.main = goes_on
{patch}
leash.run(("signals",), "token", None)
"""


def held(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(patch: str = "", obeys: bool = True) -> subprocess.Popen[str]:
    process = held("-c", GOES_ON.format(patch=patch, obeys=obeys))
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def test_the_word_for_ctrl_c() -> None:
    process = start()
    assert process.stdin
    process.stdin.write("end\n")
    process.stdin.flush()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, "ended in order\n")
    assert lines_of(err)[-1] == "\x1etoken exit 4"


def test_nobody_is_there_any_more() -> None:
    out, _ = start().communicate(timeout=60)  # closes what it reads
    assert out == "ended in order\n"


def test_the_holder_falls_silent() -> None:
    """As when a laptop falls asleep: nothing is closed."""
    process = start("leash.SILENT_SECONDS = 0.2")
    process.wait(timeout=60)
    out, _ = process.communicate()
    assert out == "ended in order\n"


def test_what_does_not_end_in_order_ends_at_once() -> None:
    """It may be writing to a pipe that nobody reads."""
    process = start("leash.LEAVING_SECONDS = 0.2", obeys=False)
    process.communicate(timeout=60)
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (("decode", "137"), 0, "137", ""),
        (("nonsense",), 2, "", "ktrace: No such command 'nonsense'"),
    ],
)
def test_its_exit_code_comes_last(words: tuple[str, ...], code: int, out: str, err: str) -> None:
    process = held("-m", "tracer", "leash", "--token=abc", *words)
    assert process.wait(timeout=60) == code
    told = process.communicate()
    assert out in told[0]
    assert err in told[1]
    assert lines_of(told[1])[-1] == f"\x1eabc exit {code}"


def test_that_the_probes_are_attached(tmp_path: Path) -> None:
    process = start(f"from pathlib import Path; leash.SHARED = Path({str(tmp_path)!r})")
    assert process.stdin and process.stderr
    file = tmp_path / "ktrace-ready-token"
    file.touch()
    lines = iter(process.stderr.readline, "")
    assert "\x1etoken ready\n" in (line for line in lines)
    wait_for("the file to be gone", lambda: not file.exists())
    process.communicate(timeout=60)


def test_a_pod_that_nobody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself, and not while somebody does."""
    monkeypatch.setattr(leash, "HELD", tmp_path / "held")
    monkeypatch.setattr(leash, "ABANDONED_SECONDS", 10.0)
    beats = 0

    def sleep(_seconds: float) -> None:
        nonlocal beats
        beats += 1
        long_ago = time.time() - 11
        os.utime(leash.HELD, (long_ago, long_ago))
        if beats < 3:
            leash.Leash(None)._beat()

    monkeypatch.setattr(time, "sleep", sleep)
    leash.run((), None, None)
    assert beats == 3


def lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def test_the_holders_time_zone() -> None:
    patch = "import time; tracer.cli.main = lambda: print(time.strftime('%z', time.localtime(0)))"
    program = GOES_ON.format(patch=patch, obeys=True)
    program = program.replace('"token", None)', 'None, "<+0545>-5:45")')
    process = held("-c", program)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("+0545\n", 0), err
