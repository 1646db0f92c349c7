# SPDX-License-Identifier: Apache-2.0
"""The lab's column for the BCC backend: guests with this machine's BCC and the headers of their own
kernel.

An emulated processor needs a minute to compile all programs, this machine two seconds. So the
programs of a guest's tests are compiled here, from the same headers, and put into the guest's
cache; the guest compiles one program itself. A BCC knows only headers of its own time. For kernels
newer than this machine's BCC, their own suite's BCC compiles, in a whole unpacked Debian. The guest
loads the results with this machine's BCC.

    python -m tests.lab.bcc SOURCE HEADERS FILE SYSTEM      compiles in ktrace's place
"""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.debian import Say, archives, locked
from tests.lab import kernels
from tests.lab.image import PROJECT, Additions
from tests.lab.kernels import Kernel, LabError, Suite, cache, fetched_headers
from tests.lab.makers import attach_together
from tests.lab.results import Attached
from tracer import probes
from tracer.backends import bcc
from tracer.backends.bcc.programs import CACHE, Worker, cache_name, interpreter_of, keep
from tracer.backends.objects import Objects

# Besides the tests of BCC alone: every field of every kind that has one, each case that a kind
# distinguishes, and selection. They stand in a file, because a process's recorded arguments end
# after 1024 bytes, and tests compare their own process's.
TESTS = ("@tests/lab/bcc.txt",)
# In `make test` the guest for SystemTap compares the events, of all backends at once.
BRIEF = (*TESTS, "--deselect=tests/backends/test_same_events.py")
SUITES = (
    Suite("bullseye", "5.10", ("bcc", "core"), brief=BRIEF),
    Suite("bookworm", "6.1", ("bcc", "core"), in_tests=False),
    Suite("trixie", "6.12", ("bcc", "core"), in_tests=False),
    Suite("sid", "7.2", ("bcc", "core"), has_security=False, in_tests=False),
)
PROBES = probes.names()
# Combinations of probes in these tests.
TOGETHER = (*([name] for name in PROBES), ["signals", "exits"], ["signals", "oom", "exits"], PROBES)
COMPILES_ITSELF = "5.10"
# Suites whose kernel headers are too new for this machine's BCC.
WITH_OWN_BCC = ("trixie", "sid")
# loaded by name
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libbcc.so.0")


fetched = kernels.fetched


def additions(suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
    """BCC, the kernel's headers where BCC looks for them, and the compiled programs."""
    package = bcc.find_package()
    if not package or not LIBRARY.exists():
        raise LabError("the guests need BCC: apt-get install python3-bpfcc")
    sources = fetched_headers(suite, kernel, say) / "usr" / "src"
    own = f"linux-headers-{kernel.release}"
    common = next(sources.glob("linux-headers-*-common")).name
    compiled = cache() / "compiled" / kernel.release
    here = _links(scratch / "headers", sources / own, sources / common)
    system = _system(suite, say) if suite.name in WITH_OWN_BCC else Path("/")
    compiler = _Compiler(kernel.release, here, package, system, compiled, say)
    for wanted in TOGETHER:
        compiler.compile(wanted)
    if suite.series != COMPILES_ITSELF:
        compiler.compile(["signals"], ring=False)
    there = _links(scratch / "links", Path("/usr/src", own), Path("/usr/src", common))
    trees = [(str(CACHE), compiled), (f"/lib/modules/{kernel.release}", there)]
    for name in (own, common):
        for part in ("include", "arch/x86"):
            trees.append((f"/usr/src/{name}/{part}", sources / name / part))
    return Additions((*sorted(package.glob("*.py")), LIBRARY), tuple(trees))


def attach() -> Iterator[tuple[str, Attached]]:
    return attach_together("bcc", PROBES)


def _links(directory: Path, own: Path, common: Path) -> Path:
    """A directory with the links from a kernel's modules to its headers."""
    directory.mkdir()
    (directory / "build").symlink_to(own)
    (directory / "source").symlink_to(common)
    return directory


@dataclass(frozen=True)
class _Compiler:
    """`headers` are this kernel's, `system` contains the BCC that reads them, and `package` is the
    guest's BCC."""

    release: str
    headers: Path
    package: Path
    system: Path
    compiled: Path
    say: Say

    def compile(self, wanted: Sequence[str], ring: bool = True) -> None:
        """Compiles into the file in which the guest will look for it."""
        names = bcc.objects_of(map(probes.get, wanted))
        code = bcc.text_of(Objects(), names, self.headers / "build", ring)
        name = cache_name(code, self.release, self.headers / "build", self.package)
        file = self.compiled / name
        if file.exists():
            return
        self.say(f"compiling {', '.join(names)} for {self.release}")
        self.compiled.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
            source.write(code)
            source.flush()
            command = [sys.executable, "-m", "tests.lab.bcc", source.name]
            command += map(str, (self.headers, file, self.system))
            done = subprocess.run(["unshare", "--mount", *command], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"compiling for {self.release}: {done.stderr.strip()}")


def _system(suite: Suite, say: Say) -> Path:
    """A directory with a Debian and its BCC, kept between labs."""
    place = cache() / "bcc"
    place.mkdir(parents=True, exist_ok=True)
    root = place / suite.name
    with locked(place):
        if not root.exists():
            say(f"unpacking a Debian {suite.name} with its BCC: some minutes, once")
            fresh = place / "unpacked"
            shutil.rmtree(fresh, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase", "--include=python3-bpfcc"]
            command += [suite.name, str(fresh), archives()[0]]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"unpacking {suite.name}: {done.stdout.strip()[-300:]}")
            fresh.rename(root)
    return root


def main(source: str, headers: str, file: str, system: str) -> None:
    """Runs in its own mount namespace, where these headers appear as the running kernel's."""
    modules = Path(system, "lib", "modules")
    modules.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "headers", modules)
    (modules / platform.release()).symlink_to(headers)
    package = bcc.find_package()
    assert package
    if system != "/":
        _enter(Path(system), Path(headers), interpreter_of(package))
    worker = Worker(package, ())
    keep(Path(file), worker.compile(Path(source).read_text()))
    worker.close()


def _enter(system: Path, headers: Path, interpreter: str) -> None:
    """Makes the worker start inside, with the project and the headers at the same paths."""
    for place in (PROJECT, headers, cache()):
        inside = system / str(place)[1:]
        inside.mkdir(parents=True, exist_ok=True)
        _mount("--bind", place, inside)
    _mount("-t", "proc", "proc", system / "proc")
    starter = system / "run" / "python"
    starter.write_text(f'#!/bin/sh\nexec chroot {shlex.quote(str(system))} python3 "$@"\n')
    starter.chmod(0o755)
    _mount("--bind", starter, interpreter)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
