# SPDX-License-Identifier: Apache-2.0
"""How the programs are compiled: probes know nothing of each other's names, and old kernels know
the instructions."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

import tracer
from tests.support.ktrace import ROOT

# An older setuptools, which the environment may have, makes no wheels.
COMPILE = """
import runpy, sys, types
from setuptools import Command
wheels = types.ModuleType("setuptools.command.bdist_wheel")
wheels.bdist_wheel = Command
sys.modules[wheels.__name__] = wheels
sys.argv = ["setup.py", "--quiet", "build_py", "--build-lib", "built"]
runpy.run_path("setup.py", run_name="__main__")
"""


def test_probes_that_declare_the_same_names(tmp_path: Path) -> None:
    """They cannot be in one object with the others, and are built all the same."""
    (tmp_path / "tracer").mkdir()
    (tmp_path / "tracer" / "__init__.py").touch()
    (tmp_path / "stap").mkdir()
    (tmp_path / "setup.cfg").write_text("[options]\npackages = tracer\n")
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "probes" / "include", tmp_path / "probes" / "include")
    for name, source in (("context", "context"), ("exits", "exits"), ("copy", "exits")):
        there = tmp_path / "probes" / f"{name}.bpf.c"
        shutil.copy(ROOT / "probes" / f"{source}.bpf.c", there)
    told = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stderr
    objects = tmp_path / "built" / "tracer" / "objects"
    made = {str(path.relative_to(objects)) for path in objects.rglob("*.o")}
    apart = {"context.bpf.o", "exits.bpf.o", "copy.bpf.o"}
    assert made == apart | {"together/exits.bpf.o", "together/copy.bpf.o"}
    assert "slower to load for it: context.bpf.c, copy.bpf.c, exits.bpf.c" in told


# An instruction, Documentation/bpf/standardization/instruction-set.rst: opcode, registers, offset,
# immediate. That which loads 64 bits is twice as long.
INSTRUCTION = struct.Struct("<BBhi")
CLASS, MODE, STORE, ATOMIC, LOAD_64 = 0x07, 0xE0, 0x03, 0xC0, 0x18


def instructions(code: bytes) -> Iterator[tuple[int, int]]:
    """Opcode and immediate of each."""
    at = 0
    while at < len(code):
        opcode, _, _, immediate = INSTRUCTION.unpack_from(code, at)
        yield opcode, immediate
        at += INSTRUCTION.size * (2 if opcode == LOAD_64 else 1)


OBJECTS = sorted(Path(tracer.__file__).with_name("objects").rglob("*.o"))


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_atomics_are_plain_additions(path: Path) -> None:
    """Kernels before 5.12 refuse all others (commit 91c960b00566), and the probe then takes an
    attach point that tells less."""
    with path.open("rb") as file:
        programs = {
            section.name: section.data()
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        }
    assert any(programs.values())
    for name, code in programs.items():
        atomics = [(o, i) for o, i in instructions(code) if o & (CLASS | MODE) == STORE | ATOMIC]
        assert [f"{o:#x} {i:#x}" for o, i in atomics if i] == [], name
