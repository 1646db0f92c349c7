# SPDX-License-Identifier: Apache-2.0
"""The lab's column for the BCC backend: guests that have this machine's BCC, and the headers of
their own kernel.

An emulated processor compiles all programs in four minutes and this machine in ten seconds. So what
a guest's tests need is compiled here, by the same BCC from the same headers, and lies in the
guest's cache; one program is left for the guest to compile itself.

    python -m tests.lab.bcc SOURCE HEADERS FILE      compiles in the place of ktrace
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import kernels
from tests.lab.image import Additions
from tests.lab.kernels import Kernel, LabError, Say, Suite, cache, fetched_headers
from tests.lab.makers import attach_together
from tests.lab.results import Attached
from tracer import probes
from tracer.backends import bcc
from tracer.backends.bcc_programs import CACHE, Worker, cache_name, keep
from tracer.backends.objects import Objects

SUITES = (
    Suite("bullseye", "5.10", ("bcc", "core")),
    Suite("bookworm", "6.1", ("bcc", "core")),
)
TESTS = ("tests/backends/test_bcc.py", "tests/backends/test_same_events.py")
PROBES = probes.names()
COMPILES_ITSELF = "5.10"
# loaded by name
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libbcc.so.0")


fetched = kernels.fetched


def additions(suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
    """BCC, the kernel's headers where BCC looks for them, and what was compiled."""
    package = bcc.find_package()
    if not package or not LIBRARY.exists():
        raise LabError("the guests need BCC: apt-get install python3-bpfcc")
    sources = fetched_headers(suite, kernel, say) / "usr" / "src"
    own = f"linux-headers-{kernel.release}"
    common = next(sources.glob("linux-headers-*-common")).name
    compiled = cache() / "compiled" / kernel.release
    here = _links(scratch / "headers", sources / own, sources / common)
    _compile(kernel.release, here, package, compiled, PROBES, True, say)
    if suite.series != COMPILES_ITSELF:
        _compile(kernel.release, here, package, compiled, ["signals"], False, say)
    there = _links(scratch / "links", Path("/usr/src", own), Path("/usr/src", common))
    trees = [(str(CACHE), compiled), (f"/lib/modules/{kernel.release}", there)]
    for name in (own, common):
        for part in ("include", "arch/x86"):
            trees.append((f"/usr/src/{name}/{part}", sources / name / part))
    return Additions((*sorted(package.glob("*.py")), LIBRARY), tuple(trees))


def attach() -> Iterator[tuple[str, Attached]]:
    return attach_together("bcc", PROBES)


def _links(directory: Path, own: Path, common: Path) -> Path:
    """A directory with what leads from a kernel's modules to its headers."""
    directory.mkdir()
    (directory / "build").symlink_to(own)
    (directory / "source").symlink_to(common)
    return directory


def _compile(
    release: str,
    headers: Path,
    package: Path,
    compiled: Path,
    wanted: Sequence[str],
    ring: bool,
    say: Say,
) -> None:
    """Into the file in which the guest will look for it."""
    names = bcc.objects_of(map(probes.get, wanted))
    code = bcc.text_of(Objects(), names, headers / "build", ring)
    file = compiled / cache_name(code, release, headers / "build", package)
    if file.exists():
        return
    say(f"compiling the programs for {release}")
    compiled.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(code)
        source.flush()
        command = [sys.executable, "-m", "tests.lab.bcc", source.name, str(headers), str(file)]
        done = subprocess.run(["unshare", "--mount", *command], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"compiling the programs for {release}: {done.stderr.strip()}")


def main(source: str, headers: str, file: str) -> None:
    """In a mount namespace of its own, where these headers are the running kernel's."""
    subprocess.run(["mount", "-t", "tmpfs", "headers", "/lib/modules"], check=True)
    os.symlink(headers, f"/lib/modules/{platform.release()}")
    package = bcc.find_package()
    assert package
    worker = Worker(package, ())
    keep(Path(file), worker.compile(Path(source).read_text()))
    worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
