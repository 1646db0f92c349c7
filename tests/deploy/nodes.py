# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for nodes on which something is installed: root directories of other Debian suites, or
with nothing in them; and the proof that what was installed there traces.

A suite's root is made once and kept outside the tree. What a test changes lies in a layer of its
own above it. Mounts are in namespaces of the processes that need them, and end with those.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.debian import archives, cache, locked
from tests.support.wait import wait_for

TIMES = 23
# Of processes that only translate what they are, a busy machine may take as long as of others.
SECONDS = 170.0
NO_PATH: dict[str, str] = {}
ENTER = """
[ -z "$1" ] || mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" node "$4"
mkdir -p "$4/proc" "$4/sys" "$4/dev"
for place in proc sys dev; do mount --rbind "/$place" "$4/$place"; done
root=$4
shift 4
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Node:
    """`lower` is a suite's root, or nothing."""

    directory: Path
    lower: Path | None = None

    @property
    def root(self) -> Path:
        """What was changed; of a node with nothing, what there is."""
        place = self.directory / ("changed" if self.lower else "root")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def files(self) -> set[str]:
        """That are there now and were not in the suite's root. What was removed from that root
        leaves a device behind."""
        found = (path for path in self.root.rglob("*") if not path.is_dir() or path.is_symlink())
        return {f"/{path.relative_to(self.root)}" for path in found if not path.is_char_device()}

    def command(self, *words: str) -> list[str]:
        for name in ("work", "root"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        places = [self.lower or "", self.root, self.directory / "work", self.directory / "root"]
        unshared = ["unshare", "--mount", "--propagation", "private"]
        return [*unshared, "sh", "-ec", ENTER, "sh", *map(str, places), *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def debian(suite: str, directory: Path, packages: Sequence[str] = ()) -> Node:
    """With the packages that are essential, and these."""
    place = cache() / "nodes"
    place.mkdir(parents=True, exist_ok=True)
    root = place / "-".join([suite, *packages])
    with locked(place):
        if not root.exists():
            fresh = place / "unpacked"
            shutil.rmtree(fresh, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase"]
            command += [f"--include={','.join(packages)}"] if packages else []
            command += [suite, str(fresh), archives()[0]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:]
            fresh.rename(root)
    return Node(directory, root)


def busybox(directory: Path) -> Node:
    """A root in which is one program: no libc, no loader, no Python."""
    node = Node(directory)
    program = node.root / "bin" / "busybox"
    program.parent.mkdir()
    shutil.copy2(shutil.which("busybox") or "busybox", program)
    for name in ("sh", "kill", "sleep"):
        program.with_name(name).symlink_to("busybox")
    return node


def traces_kills(
    program: Sequence[str] | Callable[..., list[str]],
    ready: Path,
    told: str = "/ready",
    shell: Sequence[str] = (),
) -> None:
    """`program` with ktrace's words after it names who sends 23 signals, and to whom. The file that
    says that it is ready is `told` to it, and `ready` here. `shell` sends the signals, else this
    process."""
    target = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    asked = ["signals", "--pid", str(target.pid), "--signal", "all", "-o", "json"]
    asked += ["--count", str(TIMES), "--ready-file", told]
    command = program(*asked) if callable(program) else [*program, *asked]
    tracing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NO_PATH)
    try:
        wait_for("ktrace to be ready", lambda: ready.exists() or tracing.poll() is not None)
        assert tracing.poll() is None, tracing.communicate()
        started = psutil.Process(tracing.pid)
        assert "ktrace" in {one.name() for one in (started, *started.children(recursive=True))}
        sender = _send(target.pid, shell)
        out, err = tracing.communicate(timeout=SECONDS)
    finally:
        for process in (tracing, target):
            process.kill()
            process.communicate()
    assert tracing.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["signal"]["name"] for event in events] == ["SIGWINCH"] * TIMES
    assert {event["target"]["pid"] for event in events} == {target.pid}
    assert {event["sender"]["pid"] for event in events} == {sender}


def _send(target: int, shell: Sequence[str]) -> int:
    """Who has sent the signals. A shell's own `kill` is no further process."""
    if not shell:
        for _ in range(TIMES):
            os.kill(target, signal.SIGWINCH)
        return os.getpid()
    sending = f"for one in {' '.join(map(str, range(TIMES)))}; do kill -WINCH {target}; done"
    process = subprocess.Popen([*shell, "-c", sending], env=NO_PATH)
    assert process.wait(SECONDS) == 0
    return process.pid
