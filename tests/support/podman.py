# SPDX-License-Identifier: Apache-2.0
"""A real podman for the tests, with a storage of its own.

    with Podman() as podman, podman.service():
        web = podman.run("web", "sleep", "1000", runtime="crun")

Containers have no network but loopback.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from typing_extensions import Self

from tests.support import image, leftovers
from tests.support.docker import IMAGE, NO_ENTRY, SECONDS, PlainContainer
from tests.support.wait import wait_for

UNIFIED = Path("/sys/fs/cgroup/unified")
# crun refuses version 1 controllers beside a mounted version 2.
WITHOUT_UNIFIED = ("unshare", "--mount", "sh", "-c", f'umount {UNIFIED}; exec "$@"', "sh")
# With --cgroups=split, podman makes a container's cgroup below its own, which must not be the root.
# A new cpuset is empty, so that one is left out.
IN_CGROUP = (
    *("sh", "-c"),
    "for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do"
    ' [ -e "$hierarchy/cgroup.procs" ] && mkdir -p "$hierarchy$0" &&'
    ' echo $$ >"$hierarchy$0/cgroup.procs" || true; done 2>/dev/null; exec "$@"',
)
SPLIT = "--cgroups=split"
# Without CAP_SYS_RESOURCE the usual limits cannot be set, because they are higher than ours.
LIMITS = ("--ulimit", "nofile=512:512", "--ulimit", "nproc=2000:2000")


class Podman:
    """Its containers' cgroups lie below `parent`/libpod_parent."""

    def __init__(self) -> None:
        self._name = f"kt-{uuid.uuid4().hex[:8]}"
        self.root = Path(tempfile.gettempdir()).resolve() / f"ktrace-podman-{self._name}"
        self.storage = self.root / "storage"
        self.parent = f"/{self._name}"
        self._journal: leftovers.Journal | None = None

    def __enter__(self) -> Self:
        self._journal = leftovers.Journal.open_new(self._name, [])
        try:
            self._journal.note("directory", self.root)
            self._journal.note("cgroup", self.parent)
            self.root.mkdir(mode=0o700)
            archive = self.root / "image.tar"
            image.write_archive(archive, [IMAGE])
            self("load", "--input", str(archive))
        except BaseException:
            self._journal.clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self("rm", "--all", "--force", "--time", "0", check=False)
        if self._journal is not None:
            self._journal.clear()

    @property
    def socket(self) -> Path:
        return self.root / "podman.sock"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that points ktrace to `service`."""
        return {"CONTAINER_HOST": f"unix://{self.socket}"}

    def run(
        self, name: str, *words: str, options: Sequence[str] = (), runtime: str = "runc"
    ) -> PlainContainer:
        """Starts a container that keeps running."""
        parent = ("--cgroup-parent", f"{self.parent}/libpod_parent")
        own = () if {"--cgroup-parent", SPLIT} & {*options} else parent
        run = ["run", "--detach", "--name", name, "--network", "none", *NO_ENTRY]
        self(*run, *LIMITS, *own, *options, IMAGE, *words, runtime=runtime)
        (told,) = json.loads(self("inspect", name))
        return PlainContainer(name, told["Id"], told["State"]["Pid"])

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """Its API, at `socket`."""
        words = self._words("runc", "system", "service", "--time", "0", f"unix://{self.socket}")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for("podman to serve its API", self.socket.exists, SECONDS)
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)

    def __call__(self, *words: str, check: bool = True, runtime: str = "runc") -> str:
        """The output of `podman WORDS…`."""
        done = subprocess.run(
            self._words(runtime, *words),
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert not check or not done.returncode, f"podman {' '.join(words)}: {done.stderr}"
        return done.stdout

    def _words(self, runtime: str, *words: str) -> list[str]:
        """conmon keeps its exit files and sockets below --tmpdir."""
        hidden = WITHOUT_UNIFIED if runtime == "crun" and UNIFIED.exists() else ()
        own = (*IN_CGROUP, f"{self.parent}/unit") if SPLIT in words else ()
        return [
            *own,
            *hidden,
            *("podman", "--runtime", runtime, "--cgroup-manager", "cgroupfs"),
            *("--root", str(self.storage), "--runroot", str(self.root / "run")),
            *("--tmpdir", str(self.root / "tmp"), "--storage-driver", "vfs"),
            *("--events-backend", "file"),
            *words,
        ]
