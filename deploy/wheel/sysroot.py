# SPDX-License-Identifier: Apache-2.0
"""What the wheel of an architecture is compiled with and carries: the kernel's headers, and a
`libbpf.so.1` that needs no library but a C library of 2012 or later.

libelf and zlib are inside it. All three are compiled from Debian's source packages, with patches,
by the C compiler that comes as a package for Python and brings every C library's headers. What was
made is kept outside the tree until this file changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import BuildError
from deploy.architecture import Architecture
from deploy.debian import Apt, Say, cache, locked

SUITE = "bookworm"
COMPILER = "ziglang==0.17.1"
GLIBC = "2.17"  # of manylinux_2_17
HEADERS = "linux-libc-dev"

FLAGS = ("-O2", "-fPIC", "-w", "-fno-sanitize=undefined", "-ffunction-sections", "-fdata-sections")
LINKING = (
    *("-shared", "-s", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-soname,libbpf.so.1"),
    "-Wl,-z,defs",
    "-Wl,--undefined-version",  # its list has functions that are not in it
)
ZLIB = (
    *("adler32", "crc32", "deflate", "inffast", "inflate", "inftrees", "trees", "zutil"),
    *("gzclose", "gzlib", "gzread", "gzwrite"),  # for the kernel's configuration
)
LARGE = ("-D_LARGEFILE64_SOURCE=1",)
# What elfutils' configure would find out of this C library, as far as libelf asks.
CONFIG = """\
#define HAVE_DECL_MEMPCPY 1
#define HAVE_DECL_MEMRCHR 1
#define HAVE_DECL_POWEROF2 1
#define HAVE_DECL_RAWMEMCHR 1
#define HAVE_DECL_REALLOCARRAY 0
#define HAVE_ERR_H 1
#define HAVE_ERROR_H 1
#define HAVE_FALLTHROUGH 1
#define HAVE_MREMAP 1
#define HAVE_VISIBILITY 1
#include <eu-config.h>
"""


@dataclass(frozen=True)
class Source:
    """A source package, and the licence under which what is taken of it is used."""

    name: str
    licence: str


SOURCES = (
    Source("libbpf", "LGPL-2.1-only OR BSD-2-Clause"),
    Source("elfutils", "GPL-2.0-or-later OR LGPL-3.0-or-later"),
    Source("zlib", "Zlib"),
)


def sysroot(architecture: Architecture, say: Say) -> Path:
    """A directory with `include`, and with `libraries` as the wheel carries them. Only the first
    call takes minutes."""
    directory = cache() / "wheel"
    directory.mkdir(parents=True, exist_ok=True)
    told = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    finished = directory / f"{architecture.debian}-{told}"
    if not finished.exists():
        with locked(directory):
            if not finished.exists():
                _make(architecture, directory, say).rename(finished)
    return finished


def compiler(say: Say) -> Path:
    """The program `zig`, which compiles C for any architecture and C library."""
    directory = cache() / "wheel"
    directory.mkdir(parents=True, exist_ok=True)
    finished = directory / COMPILER
    if not finished.exists():
        say(f"fetching {COMPILER} (90 MB)")
        fresh = directory / "compiler.part"
        shutil.rmtree(fresh, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps"]
        command += ["--disable-pip-version-check", "--root-user-action=ignore"]
        subprocess.run([*command, "--target", str(fresh), COMPILER], check=True)
        fresh.rename(finished)
    return finished / "ziglang" / "zig"


def compile_c(zig: Path, target: str, arguments: Sequence[str], where: Path) -> None:
    kept = str(zig.parents[2] / "compiled")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept}
    done = subprocess.run(
        [str(zig), "cc", "-target", target, *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{COMPILER} for {target}: {done.stderr.strip()[-2000:]}")


def _make(architecture: Architecture, directory: Path, say: Say) -> Path:
    scratch = directory / "build"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    zig = compiler(say)
    apt = Apt(SUITE, scratch / "apt", sources=True, architecture=architecture.debian)
    say(f"fetching the package lists of {SUITE}")
    apt.update()
    apt.unpack([HEADERS], scratch / "headers", say)
    sources = _sources(apt, scratch / "sources", say)
    made = scratch / "made"
    libraries = made / "libraries"
    libraries.mkdir(parents=True)
    _include(scratch / "headers", architecture, made / "include")
    say(f"compiling libbpf for {architecture.debian}: some minutes, once")
    _compile(zig, architecture, scratch, libraries / "libbpf.so.1")
    (libraries / "sbom.cdx.json").write_text(_sbom(sources))
    licences = libraries / "licences"
    licences.mkdir()
    for source in SOURCES:
        shutil.copy(scratch / "sources" / source.name / "debian" / "copyright", licences)
        (licences / "copyright").rename(licences / source.name)
    finished = directory / f"{architecture.debian}.part"
    shutil.rmtree(finished, ignore_errors=True)
    made.rename(finished)
    shutil.rmtree(scratch)
    return finished


def _sources(apt: Apt, into: Path, say: Say) -> dict[Source, str]:
    """Their trees, each under the name of its package, and their versions."""
    into.mkdir()
    versions = {}
    for source in SOURCES:
        say(f"fetching the source of {source.name}")
        apt.run("apt-get", "source", source.name, cwd=into)
        (tree,) = (path for path in into.glob(f"{source.name}-*") if path.is_dir())
        (description,) = into.glob(f"{source.name}_*.dsc")
        fields = description.read_text().splitlines()
        versions[source] = next(line[9:] for line in fields if line.startswith("Version: "))
        tree.rename(into / source.name)
    return versions


def _include(root: Path, architecture: Architecture, into: Path) -> None:
    """The headers that all architectures have, and this one's."""
    usr = root / "usr" / "include"
    own = usr / architecture.triplet
    shutil.copytree(usr, into, ignore=lambda _, names: {own.name} & {*names})
    shutil.copytree(own, into, dirs_exist_ok=True)


def _compile(zig: Path, architecture: Architecture, scratch: Path, target: Path) -> None:
    sources = scratch / "sources"
    zlib, elfutils, libbpf = (sources / name for name in ("zlib", "elfutils", "libbpf"))
    triple = f"{architecture.triplet}.{GLIBC}"
    flags = [*FLAGS, f"-ffile-prefix-map={sources}=.", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64"]
    hidden = "-fvisibility=hidden"
    objects: list[str] = []

    def compiled(name: str, files: Iterable[Path], *more: str) -> None:
        place = scratch / "objects" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.h").write_text(CONFIG)
        arguments = [*flags, *more, "-c", *map(str, sorted(files))]
        compile_c(zig, triple, arguments, place)
        objects.extend(sorted(map(str, place.glob("*.o"))))

    def include(*places: Path) -> Iterable[str]:
        return (f"-I{place}" for place in places)

    compiled("zlib", (zlib / f"{name}.c" for name in ZLIB), hidden, *LARGE, "-DHAVE_UNISTD_H")
    compiled(
        "libelf",
        [*(elfutils / "libelf").glob("*.c"), elfutils / "lib" / "next_prime.c"],
        *(hidden, "-DHAVE_CONFIG_H", "-I."),
        *include(elfutils / "lib", elfutils / "libelf", zlib),
    )
    own = (libbpf / "include", libbpf / "include" / "uapi", elfutils / "libelf", zlib)
    compiled("libbpf", (libbpf / "src").glob("*.c"), *LARGE, *include(*own))
    script = f"-Wl,--version-script={libbpf / 'src' / 'libbpf.map'}"
    compile_c(zig, triple, [*LINKING, script, "-o", str(target), *objects], scratch)


def _sbom(sources: dict[Source, str]) -> str:
    """CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/."""
    components = [
        {
            "type": "library",
            "name": source.name,
            "version": version,
            "purl": f"pkg:deb/debian/{source.name}@{version}?arch=source",
            "licenses": [{"expression": source.licence}],
        }
        for source, version in sources.items()
    ]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return json.dumps({**document, "components": components}, indent=1) + "\n"
