# SPDX-License-Identifier: Apache-2.0
"""A real Docker for the tests, without Kubernetes and separate from an installed one.

    with Docker() as docker:
        web = docker.run("web", "sleep", "1000")
        os.kill(web.pid, signal.SIGKILL)

dockerd comes from Debian's package, which is unpacked outside the tree and not installed:
installing it would start a daemon. Containers have no network but loopback.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from deploy import debian
from tests.support import image, leftovers
from tests.support.wait import wait_for

IMAGE = "ktrace.test/plain:latest"
SUITE, PACKAGE = "bookworm", "docker.io"
SECONDS = 120.0
NO_ENTRY = ("--entrypoint", "")  # the image's entrypoint is for a sandbox
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class PlainContainer:
    """A container outside pods, and its first process as the host numbers it."""

    name: str
    id: str
    pid: int


class Docker:
    """One dockerd; its containers' cgroups lie below `parent`/docker."""

    def __init__(self) -> None:
        self._name = f"kt-{uuid.uuid4().hex[:8]}"
        self.root = Path(tempfile.gettempdir()).resolve() / f"ktrace-docker-{self._name}"
        self.parent = f"/{self._name}"
        self._journal: leftovers.Journal | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._programs = Path()

    def __enter__(self) -> Self:
        self._journal = leftovers.Journal.open_new(self._name, [])
        try:
            self._start(self._journal)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def socket(self) -> Path:
        return self.root / "docker.sock"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that points the docker command and ktrace to this daemon."""
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, name: str, *words: str, options: Sequence[str] = ()) -> PlainContainer:
        """Starts a container that keeps running."""
        self(
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "none",
            *NO_ENTRY,
            *options,
            IMAGE,
            *words,
        )
        (told,) = json.loads(self("inspect", name))
        return PlainContainer(name, told["Id"], told["State"]["Pid"])

    def __call__(self, *words: str, check: bool = True) -> str:
        """The output of `docker WORDS…`."""
        done = subprocess.run(
            [self._programs / "usr/bin/docker", *words],
            env={"PATH": _PATH, "HOME": str(self.root), **self.environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert not check or not done.returncode, f"docker {' '.join(words)}: {done.stderr}"
        return done.stdout

    def _start(self, journal: leftovers.Journal) -> None:
        self._programs = programs()
        journal.note("directory", self.root)
        journal.note("cgroup", self.parent)
        self.root.mkdir(mode=0o700)
        with (self.root / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    self._programs / "usr/sbin/dockerd",
                    *("--host", f"unix://{self.socket}", "--pidfile", self.root / "pid"),
                    *("--data-root", self.root / "data", "--exec-root", self.root / "exec"),
                    *("--cgroup-parent", f"{self.parent}/docker", "--storage-driver", "vfs"),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH},
                start_new_session=True,
            )
        archive = self.root / "image.tar"
        image.write_archive(archive, [IMAGE])
        wait_for("dockerd to answer", self._answers, SECONDS)
        self("load", "--input", str(archive))

    def _answers(self) -> bool:
        assert self._daemon is not None
        log = (self.root / "log").read_text(errors="replace")
        assert self._daemon.poll() is None, f"dockerd ended: {log}"
        return self.socket.exists() and "Version" in self("version", check=False)

    def _stop(self) -> None:
        if self._daemon is not None:
            names = self("ps", "--all", "--quiet", check=False).split()
            if names:
                self("rm", "--force", *names, check=False)
            self._daemon.terminate()
            try:
                self._daemon.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None
        if self._journal is not None:
            self._journal.clear()
            self._journal = None


def programs() -> Path:
    """The root directory of the unpacked package."""
    directory = debian.cache() / "docker"
    directory.mkdir(parents=True, exist_ok=True)
    with debian.locked(directory):
        root = directory / "root"
        if not root.exists():
            apt = debian.Apt(SUITE, directory)
            apt.update()
            apt.unpack([PACKAGE], root, lambda what: None)
    return root
