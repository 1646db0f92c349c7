# SPDX-License-Identifier: Apache-2.0
"""The bundle traces where there is nothing but a kernel, and is the same wherever it is built."""

from __future__ import annotations

import enum
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from deploy import ROOT, BuildError
from deploy.architecture import wanted
from deploy.bundle.build import build, checksums, pack, project
from tests.deploy.nodes import busybox, traces_kills
from tests.support import bundle as made
from tracer.kernel.hierarchies import hierarchies

PYTHON = ("lib/ktrace", "--library-path", "lib", "bin/python3.11", "-IS", "-Xutf8", "-c")
# A root in which are /proc, /sys and the bundle, and nothing else.
EMPTY_NODE = """
mkdir "$1/proc" "$1/sys" "$1/ktrace"
mount --rbind /proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --bind "$2" "$1/ktrace"
root=$1
shift 2
exec chroot "$root" /ktrace/ktrace "$@"
"""
# A container that shows nothing of the host but its processes.
BARE_CONTAINER = """
mkdir -p "$1/proc" "$1/opt/ktrace"
mount --bind /proc "$1/proc"
mount --bind "$2" "$1/opt/ktrace"
root=$1
shift 2
exec chroot "$root" /opt/ktrace/ktrace "$@"
"""
IMPORT_ALL = """
import importlib, pkgutil, tracer
for module in pkgutil.walk_packages(tracer.__path__, "tracer."):
    if module.name not in ("tracer.__main__", "tracer.backends.bcc.worker"):
        importlib.import_module(module.name)
        print(module.name)
"""
COMPILE_TWICE = """
import sys
from pathlib import Path
from deploy.bundle.build import _compile
_compile(Path(sys.argv[1], "first", "lib", "python"))
import textual.app
_compile(Path(sys.argv[1], "second", "lib", "python"))
"""

# What the launcher sets.
LOCALE = {"LC_ALL": "C"}
LOAD = """
from tracer.backends.libbpf import Libbpf
Libbpf()
print(open("/proc/self/maps").read())
"""


@pytest.mark.usefixtures("root")
def test_a_kill_on_a_node_with_nothing(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", EMPTY_NODE, "sh"]
    traces_kills([*unshared, str(root), str(bundle)], root / "ready")


@pytest.mark.usefixtures("root")
def test_a_kill_where_only_busybox_is(bundle: Path, tmp_path: Path) -> None:
    """busybox unpacks the bundle and sends the signals; there is no libc."""
    node = busybox(tmp_path)
    packing = ["tar", f"--directory={bundle.parent}", "-cf", str(node.root / "ktrace.tar")]
    subprocess.run([*packing, bundle.name], check=True)
    node.run("/bin/busybox", "tar", "-xf", "/ktrace.tar")
    program = f"/{bundle.name}/ktrace"
    assert "killed" in node.run(program, "decode", "137")
    shell = node.command("/bin/sh")
    traces_kills(node.command(program), node.root / "ready", shell=shell)


@pytest.mark.usefixtures("root")
def test_a_pod_without_mounts(bundle: Path, tmp_path: Path) -> None:
    """It sees as much as where it was started; outside of pods nothing is joined."""
    root = tmp_path / "root"
    root.mkdir()
    unshared = ["unshare", "--mount", "--cgroup", "--propagation", "private"]
    command = [*unshared, "sh", "-ec", BARE_CONTAINER, "sh", str(root), str(bundle)]

    def cgroups(environment: dict[str, str]) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], **environment}
        told = subprocess.run(
            [*command, "doctor", "-o", "json", "--cri-socket", "/opt/ktrace/none"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        findings = [json.loads(line) for line in told.stdout.splitlines()]
        assert findings, told.stderr
        return next(one for one in findings if one["what"] == "cgroups")

    assert cgroups({})["state"] == "problem"
    seen = cgroups({"KUBERNETES_SERVICE_HOST": "198.19.255.1"})
    assert all(one.mount in seen["found"] for one in hierarchies())
    assert "only a part" not in seen["found"]


def test_every_module_is_in_it(bundle: Path) -> None:
    """With what it imports; pyarrow is asked for when it is needed."""
    told = subprocess.run(
        [*PYTHON, IMPORT_ALL], cwd=bundle, capture_output=True, text=True, check=False, env=LOCALE
    )
    assert told.returncode == 0, told.stderr
    assert {"tracer.cli.why", "tracer.live.app", "tracer.identity.cri"} <= set(told.stdout.split())


def test_it_loads_no_library_of_the_node(bundle: Path) -> None:
    """Also none that somebody has put where the loader would look first."""
    told = subprocess.run(
        [*PYTHON, IMPORT_ALL + LOAD],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=True,
        env=LOCALE,
    )
    files = set(re.findall(r"/\S+$", told.stdout, re.MULTILINE))
    assert {Path(file).name for file in files} >= {"libbpf.so.1", "libc.so.6", "python3.11"}
    assert {file for file in files if not file.startswith(str(bundle))} == set()


def test_it_is_the_plugin_of_kubectl_by_its_name(bundle: Path, tmp_path: Path) -> None:
    """Also by a link from elsewhere, as krew makes it."""
    link = tmp_path / "kubectl-ktrace"
    link.symlink_to(bundle / "ktrace")
    for program in (bundle / "kubectl-ktrace", link):
        told = subprocess.run(
            [program, "signals"], env={"PATH": "/"}, capture_output=True, text=True, check=False
        )
        assert told.stderr.startswith("ktrace: there is no kubectl on the PATH")
    told = subprocess.run([link, "decode", "137"], capture_output=True, text=True, check=False)
    assert "SIGKILL" in told.stdout


def test_a_bundle_that_is_not_whole(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "ktrace").write_bytes((bundle / "ktrace").read_bytes())
    (tmp_path / "ktrace").chmod(0o755)
    told = subprocess.run([tmp_path / "ktrace"], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.endswith("the bundle is not whole: unpack it again\n")


def test_what_the_nodes_python_runs_is_text(bundle: Path) -> None:
    """BCC is the node's, and so is the Python that it was built for."""
    (worker,) = (bundle / "lib").rglob("worker.py")
    assert worker.read_text() == (ROOT / "tracer" / "backends" / "bcc" / "worker.py").read_text()
    assert (bundle / "lib" / "python3.11" / "tracer" / "sources" / "include" / "bcc.h").exists()


def test_two_builds_are_the_same(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a directory that is named from here, as `make bundle` names it."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        place = Path("elsewhere", "deeper")
        another = build(made.wheel(bundle), wanted(), place, lambda words: None)
    finally:
        os.umask(before)
    assert contents(another) == contents(bundle)


def test_modules_are_compiled_alike_whatever_was_before(tmp_path: Path) -> None:
    """A release builds several bundles one after the other, in one process."""
    for name in ("first", "second"):
        modules = tmp_path / name / "lib" / "python"
        modules.mkdir(parents=True)
        for module in ("argparse.py", "dataclasses.py", "enum.py", "typing.py"):
            shutil.copy(Path(str(enum.__file__)).with_name(module), modules)
    subprocess.run([sys.executable, "-c", COMPILE_TWICE, tmp_path], cwd=ROOT, check=True)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.pyc")}
        for name in ("first", "second")
    )
    assert first == second
    assert len(first) == 4


def test_what_is_in_it_is_told(bundle: Path) -> None:
    told = json.loads((bundle / "sbom.cdx.json").read_text())
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    names = {component["name"] for component in told["components"]}
    assert names >= {"libc6", "python3.11-minimal", "click", "textual", "Jinja2", "MarkupSafe"}
    assert names >= {"libbpf", "elfutils", "zlib"}
    assert names >= {"h2", "hpack", "hyperframe"}
    assert "grpcio" not in names
    for component in told["components"]:
        if component["purl"].startswith("pkg:deb/"):
            assert (bundle / "licences" / component["name"]).read_text()


def test_the_licence_of_every_wheel(bundle: Path) -> None:
    """The text, not only its name."""
    told = json.loads((bundle / "sbom.cdx.json").read_text())
    wheels = [one["name"] for one in told["components"] if one["purl"].startswith("pkg:pypi/")]
    assert len(wheels) > 20
    for name in wheels:
        place = bundle / "licences" / project(name)
        assert any(len(path.read_text()) > 300 for path in place.iterdir()), name


def test_packed(tmp_path: Path) -> None:
    """Nothing of who packed it, and the sums are as sha256sum checks them."""
    root = tmp_path / "ktrace-1"
    (root / "lib").mkdir(parents=True)
    (root / "ktrace").write_text("x")
    (root / "ktrace").chmod(0o700)
    os.utime(root / "ktrace", (1, 1))
    packed = pack(root)
    checksums(tmp_path)
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, check=True)
    raw = io.BytesIO(zstandard.ZstdDecompressor().decompress(packed.read_bytes()))
    with tarfile.open(fileobj=raw) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["ktrace-1", "ktrace-1/ktrace", "ktrace-1/lib"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, "", "", 0o755)}
    assert len({member.mtime for member in members}) == 1


def test_one_that_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.bundle.build.MAX_PACKED", 100_000)
    root = tmp_path / "ktrace-1"
    root.mkdir()
    (root / "random").write_bytes(os.urandom(100_000))
    with pytest.raises(BuildError, match=r"ktrace-1\.tar\.zst has 0\.1 MB"):
        pack(root)
    assert [path.name for path in tmp_path.iterdir()] == ["ktrace-1"]


def contents(root: Path) -> dict[str, tuple[int, str]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    }
