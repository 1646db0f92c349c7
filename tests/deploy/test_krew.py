# SPDX-License-Identifier: Apache-2.0
"""The manifest for krew has the shape that krew asks for, and leads to what is packed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy import BuildError
from deploy.krew.build import manifest, pack

BASE = "https://downloads.test/ktrace/"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def bundle(place: Path, machine: str, version: str = "0.9.1") -> Path:
    root = place / f"ktrace-{version}-{machine}"
    (root / "lib").mkdir(parents=True)
    (root / "ktrace").write_text(machine)
    (root / "ktrace").chmod(0o755)
    (root / "lib" / "ktrace").write_text("loader")
    (root / "kubectl-ktrace").symlink_to("ktrace")
    return root


def made(place: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.krew", str(place), BASE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    program = "require 'yaml'; require 'json'; puts YAML.load(STDIN.read).to_json"
    text = (place / "ktrace.yaml").read_text()
    told = subprocess.run(
        ["ruby", "-e", program], input=text, capture_output=True, text=True, check=True
    )
    return json.loads(told.stdout)


def test_its_shape(tmp_path: Path) -> None:
    """https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/"""
    for machine in MACHINES:
        bundle(tmp_path, machine)
    plugin = made(tmp_path)
    assert plugin["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert (plugin["kind"], plugin["metadata"]["name"]) == ("Plugin", "ktrace")
    spec = plugin["spec"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["version"])
    assert len(spec["shortDescription"]) <= 50
    assert spec["homepage"].startswith("https://")
    assert "localhost/ktrace:0.9.1" in spec["caveats"]
    systems = [one["selector"]["matchLabels"] for one in spec["platforms"]]
    assert systems == [{"os": "linux", "arch": arch} for arch in MACHINES.values()]


def test_what_it_leads_to(tmp_path: Path) -> None:
    root = bundle(tmp_path, "x86_64")
    (platform,) = made(tmp_path)["spec"]["platforms"]
    archive = tmp_path / platform["uri"].removeprefix(BASE)
    assert platform["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    with tarfile.open(archive, "r:gz") as packed:
        members = packed.getmembers()
    assert all(one.isfile() or one.isdir() for one in members)  # krew refuses all others
    (files,) = platform["files"]
    assert files == {"from": f"{root.name}/*", "to": "."}
    (program,) = (one for one in members if one.name == f"{root.name}/{platform['bin']}")
    assert program.mode & 0o111


def test_the_same_bundle_is_the_same_archive(tmp_path: Path) -> None:
    one, other = bundle(tmp_path / "a", "x86_64"), bundle(tmp_path / "b", "x86_64")
    assert pack(one).read_bytes() == pack(other).read_bytes()


def test_bundles_of_two_versions(tmp_path: Path) -> None:
    archives = {}
    for version in ("0.1.0", "0.2.0"):
        root = bundle(tmp_path, "x86_64", version)
        archives[root] = pack(root)
    with pytest.raises(BuildError, match="2 versions"):
        manifest(archives, BASE)
