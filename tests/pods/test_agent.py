# SPDX-License-Identifier: Apache-2.0
"""The agent with real pods: killed by a real killer, found in its history by name, uid and
container id, also when pod and agent are gone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd import Containerd, ContainerHandle
from tests.support.cri import CriError
from tests.support.incidents import handles, mishap
from tests.support.ktrace import Ktrace, run
from tests.support.wait import wait_for

# Other tests may run beside this one, and an agent sees them all.
NAME = f"web-{os.getpid()}"
SLEEP = ["sleep", "100000"]
NS = 1_000_000_000


@pytest.fixture
def agent(tmp_path: Path, cri: tuple[str, str]) -> Callable[[], Ktrace]:
    def make() -> Ktrace:
        words = ("agent", "--dir", str(tmp_path / "history"), "--listen", "", *cri)
        return Ktrace(*words, output=None)

    return make


def history(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    told = run("history", *words, "--dir", str(tmp_path / "history"), "-o", "json")
    return [json.loads(line) for line in told.stdout.splitlines()]


def judged(tmp_path: Path, uid: str) -> list[dict[str, Any]]:
    """The history of a pod once it holds a verdict."""

    def look() -> list[dict[str, Any]]:
        return [row for row in history(tmp_path, uid) if row["verdict"]]

    return wait_for("the verdict", look, interval=0.3)


def kill(container: ContainerHandle) -> str:
    """Killed by a process of the host that is gone at once; its pid."""
    killer = subprocess.Popen(["sh", "-c", f"kill -9 {container.pid}"])
    assert killer.wait() == 0
    container.wait_exit()
    return str(killer.pid)


def test_who_killed_it(containerd: Containerd, agent: Callable[[], Ktrace], tmp_path: Path) -> None:
    pod = containerd.run_pod(NAME, "shop", labels={"app": "web"})
    with agent() as first:
        container = pod.run("app", SLEEP)
        killer = kill(container)
        judged(tmp_path, pod.uid)
        pod.remove()
        first.signal(signal.SIGKILL)
        wait_for("the agent's end", lambda: first.ended)
    for name in (f"shop/{NAME}", NAME, pod.uid, container.id[:12]):
        (row,) = history(tmp_path, name)
        assert (row["namespace"], row["pod"], row["pod_uid"]) == ("shop", NAME, pod.uid)
        assert (row["container"], row["container_id"]) == ("app", container.id)
        assert (row["exit_code"], row["signal"], row["running"]) == (137, 9, False)
        assert (row["verdict"], row["certainty"]) == ("killed_from_host", "certain")
        assert f"sh[{killer}]" in row["sentence"]
        assert row["began"] < row["ended"]
    with agent() as again:
        told = run("why", f"shop/{NAME}", "--dir", str(tmp_path / "history"))
        assert told.returncode == 0
        assert f"sh[{killer}]" in told.stdout.splitlines()[0]
        assert told.stdout.splitlines()[1] == "  certain: the kernel said so"
        assert " ago, says the agent's history; --next waits for the next" in told.stderr
        assert len(history(tmp_path, pod.uid)) == 1
        again.stop(signal.SIGTERM)
    replayed = run("replay", str(_recording(tmp_path, row)), "-o", "json", "-p", pod.uid)
    assert any(json.loads(line)["kind"] == "exit" for line in replayed.stdout.splitlines())


def _recording(tmp_path: Path, row: dict[str, Any]) -> Path:
    (path,) = (tmp_path / "history").glob(f"{row['recording']:08d}-*.ktrace")
    assert 0 < row["offset"] < path.stat().st_size
    return path


def test_a_piece_of_it(containerd: Containerd, agent: Callable[[], Ktrace], tmp_path: Path) -> None:
    """A recording of the incident alone, which says the same."""
    pod = containerd.run_pod(NAME, "shop")
    with agent() as first:
        kill(pod.run("app", SLEEP))
        (row,) = judged(tmp_path, pod.uid)
        first.stop(signal.SIGTERM)
    pod.remove()
    span = f"{row['began'][:19]}Z..{row['ended'][:19]}Z"
    piece = tmp_path / "incident.ktrace"
    cut = run("history", "--dir", str(tmp_path / "history"), "--cut", span, "-o", str(piece))
    assert cut.returncode == 0, cut.stderr
    told = json.loads(run("why", str(piece), "--pod", pod.uid, "-o", "json").stdout)
    assert (told["verdict"], told["sentence"]) == (row["verdict"], row["sentence"])
    assert (told["pod"]["name"], told["container"]["name"]) == (NAME, "app")


@pytest.fixture(scope="module")
def mishaps() -> Iterator[Containerd]:
    """A containerd whose containers have the program of mishaps."""
    with Containerd(extra_files={"/mishap": mishap()}) as running:
        yield running


@pytest.fixture
def watching(mishaps: Containerd, tmp_path: Path) -> Iterator[Ktrace]:
    words = ("agent", "--dir", str(tmp_path / "history"), "--listen", "")
    with Ktrace(*words, "--cri-socket", str(mishaps.socket), output=None) as ktrace:
        yield ktrace


def holds(ktrace: Ktrace, root: os.stat_result) -> bool:
    """Whether it has this directory open: it may hold those of others' containers, too."""
    held = []
    for fd in Path(f"/proc/{ktrace.pid}/fd").iterdir():
        with suppress(OSError):
            held.append(os.path.samestat(os.stat(fd), root))
    return any(held)


def test_the_function_of_a_crash(mishaps: Containerd, watching: Ktrace, tmp_path: Path) -> None:
    """The container is gone with it: its file is read through the root that the agent holds."""
    pod = mishaps.run_pod(NAME, "shop")
    container = pod.run("app", ["/mishap", "segv-on-signal"])
    wait_for("the handler", lambda: handles(container, signal.SIGUSR1))
    root = os.stat(f"/proc/{container.pid}/root/")
    wait_for("the container's root", lambda: holds(watching, root))
    os.kill(container.pid, signal.SIGUSR1)
    container.wait_exit()
    pod.remove()
    (row,) = judged(tmp_path, pod.uid)
    assert row["sentence"].endswith("; in mishap, function touch_nothing()")
    wait_for("the root to be let go", lambda: not holds(watching, root), interval=0.3)


def test_why_a_start_failed(mishaps: Containerd, watching: Ktrace, tmp_path: Path) -> None:
    pod = mishaps.run_pod(NAME, "shop")
    with suppress(CriError):
        pod.run("app", ["/nonexistent"])
    (row,) = judged(tmp_path, pod.uid)
    pod.remove()
    assert row["verdict"] == "start_failed"
    assert "/nonexistent" in row["sentence"]
    assert "no such file or directory" in row["sentence"]


def test_a_pod_in_which_nothing_happens(
    mishaps: Containerd, watching: Ktrace, tmp_path: Path
) -> None:
    pod = mishaps.run_pod(NAME, "shop")
    pod.run("app", SLEEP)
    (row,) = wait_for("its life", lambda: history(tmp_path, pod.uid), interval=0.3)
    assert (row["running"], row["verdict"], row["container"]) == (True, None, "app")
    told = run("why", f"shop/{NAME}", "--dir", str(tmp_path / "history"))
    assert told.returncode == 0
    assert told.stdout.startswith(f"shop/{NAME} app: lives since 20")
    assert "; nothing was seen that needs an explanation" in " ".join(told.stdout.split())
    pod.remove()


# Of the agent's own time, which on a busy machine is a small part of the time that passes.
LOST_SECONDS, MOST_SECONDS = 1.0, 5.0
ROUNDS, PATIENCE = 5, 30.0


@pytest.mark.timeout(500)
def test_killed_at_any_moment(
    containerd: Containerd, agent: Callable[[], Ktrace], tmp_path: Path
) -> None:
    """Each signal for which the agent has had a second is there afterwards, and the next agent goes
    on. While a thread was ready to run and others had the cores, it had no time."""
    chance = random.Random(4711)
    pod = containerd.run_pod(NAME, "shop")
    container = pod.run("app", SLEEP)
    must: list[tuple[int, int]] = []  # between which moments each signal was sent
    pace = threading.Event()
    for _ in range(ROUNDS):
        with agent() as one:
            sent = []
            own = began = boot() - waited_ns(one.pid)
            until, at_most = began + chance.uniform(0, MOST_SECONDS) * NS, boot() + PATIENCE * NS
            while own < until and boot() < at_most:
                before = boot()
                os.kill(container.pid, signal.SIGUSR1)
                sent.append(((before, boot()), own))
                pace.wait(0.01)
                own = boot() - waited_ns(one.pid)
            one.signal(signal.SIGKILL)
            wait_for("the agent's end", lambda: one.ended)
        must += [moments for moments, at in sent if own - at > LOST_SECONDS * NS]
    kill(container)
    with agent() as last:
        last.stop(signal.SIGTERM)
    pod.remove()
    assert must
    found = []
    for recording in (tmp_path / "history").glob("*.ktrace"):
        told = run("replay", str(recording), "-o", "json", "-p", pod.uid)
        assert told.returncode == 0, told.stderr
        events = map(json.loads, told.stdout.splitlines())
        found += [e["boot_ns"] for e in events if e["kind"] == "signal"]
    found.sort()
    missing = [one for one in must if bisect_left(found, one[0]) == bisect_left(found, one[1])]
    assert missing == []
    assert history(tmp_path, pod.uid)


def boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def waited_ns(pid: int) -> int:
    """How long the thread that traces has waited for a core, and the one of the others that has
    waited longest: a record goes through the first, and then through the history's."""
    waited = {
        int(thread.name): int((thread / "schedstat").read_text().split()[1])
        for thread in Path(f"/proc/{pid}/task").iterdir()
    }
    return waited.pop(pid) + max(waited.values(), default=0)


def test_a_second_agent_says_who_is_there(agent: Callable[[], Ktrace], tmp_path: Path) -> None:
    with agent() as first:
        second = run("agent", "--dir", str(tmp_path / "history"), "--listen", "")
        assert second.returncode == 1
        assert f"another agent, process {first.pid}, already serves" in second.stderr
        first.stop(signal.SIGTERM)
    assert os.listdir(tmp_path / "history")


def test_no_history_no_change(cri: tuple[str, str], tmp_path: Path) -> None:
    failed = run("why", "no-such-pod-anywhere", *cri, "--dir", str(tmp_path / "none"))
    assert failed.returncode == 5
    assert "history" not in failed.stderr
