# SPDX-License-Identifier: Apache-2.0
"""A new probe is a folder and a `.bpf.c`: every command has it, and no other file is touched."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.ktrace import ROOT
from tests.support.tmux import Tmux
from tests.support.trial import PACKAGE, SOURCE
from tests.support.wait import wait_for

pytestmark = pytest.mark.any_kernel

TIMES = 23


@dataclass
class House:
    """A copy of ktrace with one probe more."""

    root: Path

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tracer", *words]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextmanager
    def watching(self, *words: str, into: IO[str] | None = None) -> Iterator[None]:
        """ktrace while it traces, from its ready file on; it has ended in order after it."""
        ready = self.root / "ready"
        ready.unlink(missing_ok=True)
        with subprocess.Popen(
            self.command(*words, "--ready-file", str(ready)),
            cwd=self.root,
            env=self.environment,
            stdout=into,
            stderr=subprocess.PIPE,
        ) as running:
            try:
                wait_for("the probes", lambda: ready.exists() or running.poll() is not None)
                yield
            finally:
                running.terminate()
                _, told = running.communicate(timeout=120)
        assert running.returncode == 0, told

    def lines(self, *words: str) -> list[dict[str, Any]]:
        ended = self.run(*words)
        assert ended.returncode in (0, 1), ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "tracer", root / "tracer")
    package = root / "tracer" / "probes" / "trial"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    source = root / "trial.bpf.c"
    source.write_text(SOURCE)
    machine = platform.machine()
    target = {"x86_64": "x86", "aarch64": "arm64"}[machine]
    flags = ("-target", "bpf", "-g", "-O2", "-Wall", "-Werror", f"-D__TARGET_ARCH_{target}")
    headers = (f"-I/usr/include/{machine}-linux-gnu", f"-I{ROOT / 'probes' / 'include'}")
    made = root / "tracer" / "objects" / "trial.bpf.o"
    subprocess.run(["clang", *flags, *headers, "-c", source, "-o", made], check=True)
    return House(root)


@pytest.fixture(scope="module")
def recorded(house: House) -> Path:
    """What happened while all probes recorded: so many programs that began."""
    file = house.root / "a.ktrace"
    with house.watching("record", "-o", str(file), "trial,exits", "--all"):
        for _ in range(TIMES):
            subprocess.run(["/bin/true"], check=True)
    return file


def is_ours(event: dict[str, Any]) -> bool:
    return (event["kind"], event["process"]["exe"]) == (
        "trial",
        os.path.realpath("/bin/true"),
    ) and event["process"]["ancestry"][0]["pid"] == os.getpid()


def test_it_is_recorded_replayed_and_exported(house: House, recorded: Path) -> None:
    replayed = house.lines("replay", str(recorded), "-o", "json")
    ours = [event for event in replayed if is_ours(event)]
    assert [event["answer"] for event in ours] == [42] * TIMES
    assert [e for e in house.lines("export", str(recorded)) if e["kind"] != "verdict"] == replayed
    assert "trial, by tp_btf/sched_process_exec" in house.run("info", str(recorded)).stdout
    assert "began, and the answer is 42" in house.run("replay", str(recorded)).stdout


@pytest.mark.parametrize("words", [("trial",), ("trace", "exits,trial")], ids=" ".join)
def test_it_has_a_command_and_a_place_in_a_stream(
    house: House, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert "Show programs that begin." in house.run("--help").stdout
    told = tmp_path / "told"
    with told.open("w") as output, house.watching(*words, "--all", "-o", "json", into=output):
        for _ in range(TIMES):
            subprocess.run(["/bin/true"], check=True)
    events = [json.loads(line) for line in told.read_text().splitlines()]
    assert len([event for event in events if is_ours(event)]) == TIMES


def test_the_doctor_tries_it(house: House) -> None:
    found = [one for one in house.lines("doctor", "-o", "json") if one["what"] == "trial"]
    assert [one["found"] for one in found if one["state"] == "ok"][:1] == [
        "core: tp_btf/sched_process_exec"
    ]


def test_the_live_view_shows_it(house: House, recorded: Path, tmp_path: Path) -> None:
    with Tmux(tmp_path, columns=110) as terminal:
        words = house.command("live", str(recorded))
        terminal.command("env", "-C", str(house.root), f"PYTHONPATH={house.root}", *words)
        terminal.wait_for("the answer is 42")
        terminal.press("q")
        terminal.wait_for("events, 0 lost")
