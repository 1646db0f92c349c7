# SPDX-License-Identifier: Apache-2.0
"""Pods in which nothing needed an explanation: `ktrace history` and `ktrace why` find them, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.ktrace import run
from tests.unit.agent.test_history import NOW, NS, Keeping, told
from tracer.agent.item import Life
from tracer.agent.lock import Lock

WEB = Life("uid-1", "shop", "web-0", "app", "a" * 64, "containerd", NOW - 60 * NS)
INIT = replace(WEB, container="init", container_id="b" * 64, ended_ns=NOW - 30 * NS, exit_code=0)
SAID = "ktrace: so far, says the agent's history; --next waits for what happens next\n"

Keep = Callable[..., None]


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    """Writes a history. The agent still runs, unless it has `gone`."""
    locks: list[Lock] = []

    def make(*lives: Life, gone: bool = False) -> None:
        keeping = Keeping(tmp_path)
        for life in lives:
            keeping.store.live(life)
        keeping.second()
        keeping.close()
        if not gone:
            locks.append(Lock(tmp_path))

    yield make
    for lock in locks:
        lock.release()


def why(tmp_path: Path, *words: str) -> Any:
    return run("why", *words, "--dir", str(tmp_path))


def test_a_pod_that_runs_and_an_init_container_that_did_its_work(
    keep: Keep, tmp_path: Path
) -> None:
    keep(WEB, INIT)
    answer = why(tmp_path, "shop/web-0")
    assert (answer.returncode, answer.stderr) == (0, SAID)
    first, second = answer.stdout.rstrip().split("\n\n")
    assert first.startswith(
        "shop/web-0 init: nothing killed it: ended with 0\n  it lived for 30 s\n  it ended at "
    )
    assert first.endswith(" UTC, 1 d ago")
    assert second.startswith("shop/web-0 app: lives since 20")
    assert second.endswith(" UTC; nothing was seen that needs an explanation")


def test_as_json_they_are_those_of_the_history(keep: Keep, tmp_path: Path) -> None:
    keep(WEB, INIT)
    answer = why(tmp_path, "web-0", "-o", "json", "-c", "app")
    (row,) = map(json.loads, answer.stdout.splitlines())
    listed = run("history", "web-0", "-c", "app", "-o", "json", "--dir", str(tmp_path))
    assert row == json.loads(listed.stdout)
    assert (row["running"], row["verdict"]) == (True, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"began_ns": None}, "lives since before the agent began; nothing was seen that"),
        ({"ended_ns": NOW}, "ended, and how was not seen\n"),
        ({"ended_ns": NOW, "exit_code": 0}, "nothing killed it: ended with 0\n"),
        (
            {"ended_ns": NOW, "exit_code": 1},
            "ended with 1: general error, and no verdict was made\n",
        ),
        (
            {"ended_ns": NOW, "exit_code": 137, "signal": 9},
            "SIGKILL ended it, and no verdict was made\n",
        ),
    ],
)
def test_what_is_known(keep: Keep, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    keep(replace(WEB, **changes))
    assert why(tmp_path, "web-0").stdout.startswith(f"shop/web-0 app: {words}")


def test_an_end_that_nobody_saw(keep: Keep, tmp_path: Path) -> None:
    keep(WEB, gone=True)
    assert "app: its end was not seen: no agent ran then" in why(tmp_path, "web-0").stdout


def test_harm_comes_before_quiet(keep: Keep, tmp_path: Path) -> None:
    """Of a pod that still runs."""
    keeping = Keeping(tmp_path)
    keeping.store.live(WEB)
    keeping.tell(replace(told(WEB, NOW, "closed_port"), is_end=False))
    keeping.close()
    answer = why(tmp_path, "web-0", "-o", "json")
    assert json.loads(answer.stdout)["verdict"] == "closed_port"


def test_many_are_not_all_told(keep: Keep, tmp_path: Path) -> None:
    keep(
        *(
            replace(WEB, pod=f"web-{n}", pod_uid=f"u{n}", container_id=f"{n:064x}")
            for n in range(30)
        )
    )
    answer = why(tmp_path, "web-*")
    assert answer.stdout.count("nothing was seen") == 20
    assert "ktrace: these are the last 20: ktrace history 'web-*' has more\n" in answer.stderr


def test_hostile_names(keep: Keep, tmp_path: Path) -> None:
    keep(replace(WEB, pod="evil\x1b[31m", container="\x1b]0;x\x07"))
    answer = why(tmp_path, "uid-1")
    assert "shop/evil\\x1b[31m" in answer.stdout
    assert "\x1b" not in answer.stdout
