# SPDX-License-Identifier: Apache-2.0
"""Guests for the SystemTap backend: a suite's kernel, and modules made by the suite's own
SystemTap.

A whole Debian is unpacked into a directory, for its compiler and its headers. `ktrace stap build`
gets a program `stap` that first enters that directory. The guest itself gets staprun and modules,
like a node without a compiler.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.debian import Say, archives, locked
from tests.lab.image import PROJECT, Additions
from tests.lab.kernels import Kernel, LabError, Suite, cache, found
from tests.lab.makers import attach_together
from tests.lab.results import Attached
from tests.lab.staging import CONTAINERD
from tracer import probes
from tracer.backends.stap.modules import INSTALLED, Script

SUITES = (
    Suite("bullseye", "5.10", ("stap", "core", "bcc"), has_security=False),
    Suite("sid", "7.2", ("stap", "core"), has_security=False, in_tests=False),
)
FLAVOUR = "cloud-amd64"
# Without security updates: for bullseye's updated kernels its SystemTap builds nothing
# (docs/compatibility.md).
PACKAGES = ("systemtap", "gcc", "make", f"linux-headers-{FLAVOUR}", f"linux-image-{FLAVOUR}")
PROGRAMS = ("/usr/bin/staprun", "/usr/lib/systemtap/stapio")
# Besides the tests of SystemTap alone: every field of every kind, and selection.
TESTS = (
    "tests/stap",
    "tests/backends/test_same_events.py",
    "tests/kernel/test_raising.py::test_a_call_with_a_pid",
    "tests/kernel/test_raising.py::test_a_killer_that_is_gone_at_once",
    "tests/kernel/test_exits.py::test_exit_with_a_code",
    "tests/kernel/test_exits.py::test_threads_that_leave_together",
    "tests/kernel/test_oom.py::test_processes_over_their_limit[first]",
    "tests/kernel/test_oom.py::test_a_group_is_one_event",
    "tests/kernel/test_choosing.py::test_the_default_shows_only_what_concerns_pods",
    "tests/kernel/test_choosing.py::test_two_probes_in_one_stream",
)
PROBES = [name for name in probes.names() if Script(name).exists]
GUIDE_SCRIPT = PROJECT / "tests" / "stap" / "sg.stp"
GUIDE_MODULE = Path("/lab/sg.ko")

# Where a guest has the programs, and how it starts them.
OWN = Path("/lab/systemtap")
START = """#!/bin/sh
exec {own}/ld-linux-x86-64.so.2 --library-path {own} {own}/{name} "$@"
"""

# Building modules takes minutes, and proportionally longer on a busy machine.
RUN_SECONDS = 3600.0

# Inside, the project and the directory for a module have the same paths.
ENTER = """#!/bin/sh
exec unshare --mount --propagation private sh -c '
	root=$1; shift
	for place in {project} "$PWD"; do
		mkdir -p "$root$place" && mount --bind "$place" "$root$place" || exit
	done
	mount -t proc proc "$root/proc" # a tool of newer kernels looks there
	export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/tmp
	exec chroot "$root" env -C "$PWD" stap "$@"
' stap {root} "$@"
"""


def fetched(suite: Suite, say: Say, refresh: bool = False) -> Kernel:
    """The kernel in the directory with the whole system, which is kept between labs."""
    root = _root(suite)
    with locked(cache() / "stap"):
        if refresh or not root.exists():
            say(f"unpacking a Debian {suite.name} with its SystemTap: some minutes, once")
            fresh = root.with_name("unpacked")
            shutil.rmtree(fresh, ignore_errors=True)
            archive, _ = archives()
            included = f"--include={','.join(PACKAGES)}"
            _run(["debootstrap", "--variant=minbase", included, suite.name, str(fresh), archive])
            shutil.rmtree(root, ignore_errors=True)
            fresh.rename(root)
    return found(suite.name, root)


def additions(suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
    """The programs and the modules."""
    root, tree = _root(suite), scratch / "systemtap"
    files = {**modules(root, kernel, scratch, say), **_programs(root, scratch)}
    for path, source in files.items():
        target = tree / str(path)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    return CONTAINERD + Additions(trees=(("/", tree),))


def attach() -> Iterator[tuple[str, Attached]]:
    return attach_together("stap", PROBES)


def _root(suite: Suite) -> Path:
    place = cache() / "stap"
    place.mkdir(parents=True, exist_ok=True)
    return place / suite.name


def modules(root: Path, kernel: Kernel, scratch: Path, say: Say) -> dict[Path, Path]:
    """The modules by their paths in the guest. Only changed ones are built."""
    kept = cache() / "stap" / "modules"
    environment = _with_stap_of(root, scratch)
    scripts = [Script(name) for name in PROBES]
    with locked(cache() / "stap"):
        if missing := [s.probe for s in scripts if not s.module(kept, kernel.release).exists()]:
            say(f"building SystemTap's modules of {', '.join(missing)}")
            command = [sys.executable, "-m", "tracer", "stap", "build", *missing]
            command += ["--kernel", kernel.release, "-o", str(kept)]
            _run(command, environment=environment)
        guide = _guide_module(kept / kernel.release, kernel, environment)
    made = (script.module(kept, kernel.release) for script in scripts)
    return {INSTALLED / path.relative_to(kept): path for path in made} | {GUIDE_MODULE: guide}


def _guide_module(kept: Path, kernel: Kernel, environment: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(GUIDE_SCRIPT.read_bytes()).hexdigest()[:12]
    module = kept / f"guide-{digest}" / "sg.ko"
    if not module.exists():
        module.parent.mkdir(parents=True, exist_ok=True)
        command = ["stap", "-r", kernel.release, "-p4", "-m", "sg", str(GUIDE_SCRIPT)]
        _run(command, module.parent, environment)
    return module


def _with_stap_of(root: Path, scratch: Path) -> dict[str, str]:
    """An environment in which `stap` is that system's."""
    directory = scratch / "stap-programs"
    directory.mkdir(exist_ok=True)
    program = directory / "stap"
    program.write_text(ENTER.format(project=shlex.quote(str(PROJECT)), root=shlex.quote(str(root))))
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}


def _programs(root: Path, place: Path) -> dict[Path, Path]:
    """staprun and its helper programs, with that system's own libraries and loader, because the
    guest's may be older."""
    listed = subprocess.run(
        ["chroot", root, "ldd", *PROGRAMS], capture_output=True, text=True, check=True, timeout=60
    )
    libraries = set(re.findall(r"(/\S+) \(0x", listed.stdout))
    files = {OWN / Path(path).name: _inside(root, path) for path in (*libraries, *PROGRAMS)}
    for program in PROGRAMS:
        starter = place / Path(program).name
        starter.write_text(START.format(own=OWN, name=starter.name))
        starter.chmod(0o755)
        files[Path(program)] = starter
    return files


def _inside(root: Path, path: str) -> Path:
    """The real path of a path in that system. Links there refer to its own root."""
    real = subprocess.run(
        ["chroot", root, "readlink", "-f", path], capture_output=True, text=True, check=True
    )
    return root / real.stdout.strip()[1:]


def _run(
    command: Sequence[str], place: Path = PROJECT, environment: Mapping[str, str] | None = None
) -> None:
    try:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"the SystemTap guest needs {command[0]}: make install") from error
    words = f"{' '.join(command[:4])} …"
    with process:
        try:
            said, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # this ends the compiler, too
            raise LabError(f"{words} took longer than {RUN_SECONDS:g} s") from None
    if process.returncode:
        last = " ".join(said.split("\n")[-8:])
        raise LabError(f"{words} ended with {process.returncode}: {last}")
