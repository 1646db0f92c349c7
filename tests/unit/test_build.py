# SPDX-License-Identifier: Apache-2.0
"""How the programs are compiled: probes know nothing of each other's names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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
