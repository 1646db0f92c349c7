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
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.image import build_disk
from tests.lab.kernels import Kernel, LabError, Say, Suite, cache, fetched_headers
from tracer import probes
from tracer.backends import bcc
from tracer.backends.bcc_programs import CACHE, Worker, cache_name, keep
from tracer.backends.objects import Objects

TESTS = ("tests/backends/test_bcc.py",)
COMPILES_ITSELF = "5.10"
# loaded by name
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libbcc.so.0")


def build_bcc_disk(
    kernels: Mapping[Suite, Kernel],
    tests: Sequence[str],
    scratch: Path,
    say: Say,
    others: Sequence[Path] = (),
    module: str = "tests.lab.guest",
) -> Path:
    """One for all kernels, with `others` of this machine's files."""
    package = bcc.find_package()
    if not package or not LIBRARY.exists():
        raise LabError("the guests need BCC: apt-get install python3-bpfcc")
    compiled = cache() / "compiled"
    trees = {str(CACHE): compiled}
    for suite, kernel in kernels.items():
        root = fetched_headers(suite, kernel, say)
        for headers in (root / "usr" / "src").glob("linux-headers-*"):
            for part in ("include", "arch/x86"):
                trees[f"/usr/src/{headers.name}/{part}"] = headers / part
        trees[f"/lib/modules/{kernel.release}"] = root / "lib" / "modules" / kernel.release
        _compile(kernel.release, root, package, compiled, probes.names(), True, say)
        if suite.series != COMPILES_ITSELF:
            _compile(kernel.release, root, package, compiled, ["signals"], False, say)
    more = [*sorted(package.glob("*.py")), LIBRARY, *others]
    return build_disk(tests or TESTS, scratch, module=module, backend="bcc", more=more, trees=trees)


def _compile(
    release: str,
    root: Path,
    package: Path,
    compiled: Path,
    wanted: Sequence[str],
    ring: bool,
    say: Say,
) -> None:
    """Into the file in which the guest will look for it."""
    tree = root / "here"
    tree.mkdir(exist_ok=True)
    own, common = (_headers(root, release), _headers(root, "*-common"))
    for name, target in (("build", own), ("source", common)):
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)
    names = bcc.objects_of(map(probes.get, wanted))
    code = bcc.text_of(Objects(), names, tree / "build", ring)
    file = compiled / cache_name(code, release, tree / "build", package)
    if file.exists():
        return
    say(f"compiling the programs for {release}")
    compiled.mkdir(exist_ok=True)
    source = root / "source.c"
    source.write_text(code)
    command = [sys.executable, "-m", "tests.lab.bcc", str(source), str(tree), str(file)]
    done = subprocess.run(["unshare", "--mount", *command], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"compiling the programs for {release}: {done.stderr.strip()}")


def _headers(root: Path, which: str) -> Path:
    return next((root / "usr" / "src").glob(f"linux-headers-{which}")).resolve()


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
