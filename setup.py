# SPDX-License-Identifier: Apache-2.0
"""Builds the package with its BPF objects inside the wheel, so that a node needs no compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
# Set by deploy/wheel: the machine, the directory of headers and libraries, the wheel's platform.
MACHINE = os.environ.get("KTRACE_MACHINE") or platform.machine()
SYSROOT = os.environ.get("KTRACE_SYSROOT")
PLATFORM = os.environ.get("KTRACE_PLATFORM")


class BuildObjects(build_py):  # type: ignore[misc]
    """Compiles `probes/*.bpf.c` into `tracer/objects/`. Also packs the sources that are compiled on
    nodes: the same programs as `tracer/sources/` for BCC, and SystemTap's scripts. A wheel for
    other systems contains its own libbpf."""

    def run(self) -> None:
        if not self.editable_mode:
            # setuptools would also pack files of an earlier build
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        root = HERE if self.editable_mode else Path(self.build_lib)
        target = root / "tracer" / "objects"
        compile_objects(sorted((HERE / "probes").glob("*.bpf.c")), target)
        shutil.copytree(HERE / "probes", root / "tracer" / "sources", dirs_exist_ok=True)
        shutil.copytree(HERE / "stap", root / "tracer" / "stap", dirs_exist_ok=True)
        if SYSROOT:
            shutil.copytree(Path(SYSROOT, "libraries"), root / "tracer" / "libraries")


class PlatformWheel(bdist_wheel):  # type: ignore[misc]
    """The objects are for one machine architecture; the Python is for any version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", PLATFORM or super().get_tag()[2]


class Platform(Distribution):  # type: ignore[misc]
    def has_ext_modules(self) -> bool:
        return True


def compile_objects(sources: list[Path], target: Path) -> None:
    """Each source by itself. Also each with the context in one object, and all in one: libbpf reads
    the kernel's types once for each object (tracer/backends/core.py)."""
    together = target / "together"
    together.mkdir(parents=True, exist_ok=True)
    context = HERE / "probes" / "context.bpf.c"
    for source in sources:
        compile_object([source], target / source.with_suffix(".o").name)
        if source != context:
            compile_together([context, source], together / source.with_suffix(".o").name)
    compile_together(sources, together / "all.bpf.o")


def compile_together(sources: list[Path], target: Path) -> None:
    """Sources that declare the same names cannot be in one object: then there is none, and each is
    loaded by itself, which takes longer."""
    target.unlink(missing_ok=True)
    try:
        compile_object(sources, target)
    except subprocess.CalledProcessError:
        names = ", ".join(source.name for source in sources)
        print(f"warning: not in one object, and slower to load for it: {names}", file=sys.stderr)


def compile_object(sources: list[Path], target: Path) -> None:
    clang = shutil.which("clang")
    strip = shutil.which("llvm-strip")
    if not clang or not strip:
        raise SystemExit("building ktrace needs clang and llvm-strip: apt-get install clang llvm")
    flags = ["-g", "-O2", "-target", "bpf", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    flags += [f"-D__TARGET_ARCH_{ARCHITECTURES.get(MACHINE, MACHINE)}"]
    system = f"{SYSROOT}/include" if SYSROOT else f"/usr/include/{MACHINE}-linux-gnu"
    flags += [f"-I{system}", f"-I{HERE / 'probes' / 'include'}"]
    # the same object wherever it is built
    flags += [f"-ffile-prefix-map={HERE}=.", f"-ffile-prefix-map={system}=include"]
    *before, last = map(str, sources)
    for source in before:
        flags += ["-include", source]
    subprocess.run([clang, *flags, "-c", last, "-o", str(target)], check=True)
    # -g is needed for BTF and line information; the DWARF that comes with it is not, nor are the
    # labels of jumps
    subprocess.run([strip, "-g", "--wildcard", "--strip-symbol=LBB*", str(target)], check=True)


setup(
    distclass=Platform,
    cmdclass={"build_py": BuildObjects, "bdist_wheel": PlatformWheel},
)
