# SPDX-License-Identifier: Apache-2.0
"""Builds the BPF objects together with the package, so that they travel inside the wheel and a node
needs no compiler."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


class BuildObjects(build_py):  # type: ignore[misc]
    """Compiles `probes/*.bpf.c` into `tracer/objects/`, and takes along what is compiled on nodes:
    the same programs as `tracer/sources/` for BCC, and SystemTap's scripts."""

    def run(self) -> None:
        super().run()
        root = HERE if self.editable_mode else Path(self.build_lib)
        target = root / "tracer" / "objects"
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted((HERE / "probes").glob("*.bpf.c")):
            compile_object(source, target / source.with_suffix(".o").name)
        shutil.copytree(HERE / "probes", root / "tracer" / "sources", dirs_exist_ok=True)
        shutil.copytree(HERE / "stap", root / "tracer" / "stap", dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):  # type: ignore[misc]
    """The objects are for one machine architecture; the Python is for any version."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def compile_object(source: Path, target: Path) -> None:
    machine = platform.machine()
    clang = shutil.which("clang")
    strip = shutil.which("llvm-strip")
    if not clang or not strip:
        raise SystemExit("building ktrace needs clang and llvm-strip: apt-get install clang llvm")
    flags = ["-g", "-O2", "-target", "bpf", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    flags += [f"-D__TARGET_ARCH_{ARCHITECTURES.get(machine, machine)}"]
    flags += [f"-I/usr/include/{machine}-linux-gnu", f"-I{HERE / 'probes' / 'include'}"]
    subprocess.run([clang, *flags, "-c", str(source), "-o", str(target)], check=True)
    # -g is needed for BTF and line information; the DWARF that comes with it is not
    subprocess.run([strip, "-g", str(target)], check=True)


setup(cmdclass={"build_py": BuildObjects, "bdist_wheel": PlatformWheel})
