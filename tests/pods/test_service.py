# SPDX-License-Identifier: Apache-2.0
"""The agent's unit by a real systemd: a manager of the user's kind, as PID 1 is somebody else here,
with a /run/systemd of its own. The guest with systemd runs the other unit (tests/lab)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.packages.build import UNIT_FILES
from tests.support.containerd import Containerd
from tests.support.ktrace import END_SECONDS, START_SECONDS, run
from tests.support.wait import wait_for

NAME = f"web-{os.getpid()}"
UNIT = "ktrace-agent.service"
SYSTEMD = "/usr/lib/systemd/systemd"
# A manager takes along whatever is in its cgroup. So it first gets one of its own in each hierarchy
# but that of processors' sets, which systemd does not use, and begins nowhere else. sd_booted(3)
# wants the directory.
MANAGER = f"""
name=$1
shift
for mount; do
    mkdir "$mount/$name"
    echo $$ >"$mount/$name/cgroup.procs"
done
if grep -v :cpuset: /proc/self/cgroup | grep -q ':/$'; then exit 1; fi
mount -t tmpfs none /run/systemd
mkdir /run/systemd/system
exec {SYSTEMD} --user
"""


def mounts() -> list[Path]:
    """Of the hierarchies that systemd may use."""
    every = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        Path(where)
        for _, where, kind, options, *_ in every
        if kind in ("cgroup", "cgroup2") and "cpuset" not in options.split(",")
    ]


class Manager:
    def __init__(self, home: Path) -> None:
        self.home = home
        units = home / "config/systemd/user"
        units.mkdir(parents=True)
        (home / "run").mkdir(mode=0o700)
        for file in UNIT_FILES:
            text = file.read_text().replace(
                "/usr/bin/ktrace", str(Path(sys.executable).with_name("ktrace"))
            )
            (units / file.name).write_text(text)
        self._environment = {
            **os.environ,
            **{"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")},
            **{"XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state")},
        }
        self._cgroup = f"ktrace-test-{os.getpid()}"
        words = ("sh", "-ec", MANAGER, "sh", self._cgroup, *map(str, mounts()))
        self._process = self._popen("unshare", "--mount", *words)

    def start(self) -> None:
        private = self.home / "run/systemd/private"
        wait_for("systemd", lambda: private.exists() or self._process.poll() is not None)
        assert self._process.poll() is None, self._process.communicate()[1]

    def change(self, unit: str, words: str) -> None:
        changes = self.home / f"config/systemd/user/{unit}.d"
        changes.mkdir()
        (changes / "test.conf").write_text(f"[Service]\n{words}\n")

    def systemctl(self, *words: str) -> str:
        """In the manager's own world: systemctl asks whether systemd has booted it."""
        inside = ("nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt")
        process = self._popen(*inside, "systemctl", "--user", *words)
        told, said = process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0, said
        return told

    def shown(self, unit: str, *names: str) -> dict[str, str]:
        asked = (f"--property={name}" for name in names)
        return dict(
            line.split("=", 1) for line in self.systemctl("show", unit, *asked).splitlines()
        )

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=END_SECONDS)
        for mount in mounts():
            for folder, _, _ in os.walk(mount / self._cgroup, topdown=False):
                Path(folder).rmdir()

    def _popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            cwd=self.home,
        )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.end()


def test_the_agent_as_a_service(containerd: Containerd, manager: Manager, tmp_path: Path) -> None:
    assert UNIT in [file.name for file in UNIT_FILES]
    manager.change(
        UNIT,
        f"Environment=KTRACE_CRI_SOCKET={containerd.socket} KTRACE_LISTEN="
        f" KTRACE_READY_FILE={tmp_path}/ready\nReadWritePaths={tmp_path}",
    )
    pod = containerd.run_pod(NAME, "shop")
    manager.systemctl("start", UNIT)
    wait_for("the agent", (tmp_path / "ready").exists, START_SECONDS)
    container = pod.run("app", ["sleep", "100000"])
    os.kill(container.pid, signal.SIGKILL)
    container.wait_exit()
    directory = tmp_path / "config/ktrace"  # a user's manager has its state here
    told = wait_for("the verdict", lambda: verdicts(directory, pod.uid), interval=0.3)
    assert told == ["killed_from_host"]
    running = manager.shown(UNIT, "ActiveState", "NRestarts", "MemoryCurrent", "StateDirectoryMode")
    assert int(running.pop("MemoryCurrent")) < 192 << 20
    assert running == {"ActiveState": "active", "NRestarts": "0", "StateDirectoryMode": "0700"}
    manager.systemctl("stop", UNIT)
    ended = {"ActiveState": "inactive", "Result": "success"}
    assert manager.shown(UNIT, *ended) == ended
    pod.remove()


def verdicts(directory: Path, uid: str) -> list[str]:
    told = run("history", uid, "--dir", str(directory), "-o", "json").stdout.splitlines()
    return [row["verdict"] for row in map(json.loads, told) if row["verdict"]]
