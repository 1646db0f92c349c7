# SPDX-License-Identifier: Apache-2.0
"""A container image without a registry and without Kubernetes: what a node takes out of the archive
for its architecture, and what a runtime is told to make of it."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Where a guest has it.
PLACE = Path("/lab/image")
ROOT = "rootfs"
# Of the host, as ktrace's DaemonSet has it; the last one is the container's own.
SHOWN = ("/sys/fs/cgroup", "/var/log")
OWN = "/tmp"


def unpack(archive: Path, architecture: str, into: Path) -> None:
    """The layers of the image for one architecture, by its name in Debian and in images, and beside
    them its configuration."""
    root = into / ROOT
    root.mkdir(parents=True)
    with tarfile.open(archive) as tar:

        def told(digest: str) -> Any:
            return json.loads(blob(digest))

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file
            return file.read()

        index = tar.extractfile("index.json")
        assert index
        (image,) = json.loads(index.read())["manifests"]
        (chosen,) = (
            one
            for one in told(image["digest"])["manifests"]
            if one["platform"]["architecture"] == architecture
        )
        manifest = told(chosen["digest"])
        for layer in manifest["layers"]:
            assert layer["mediaType"].endswith("tar+gzip")
            command = ["tar", "--extract", "--gzip", "--directory", str(root)]
            subprocess.run(command, input=blob(layer["digest"]), check=True)
        (into / "config").write_bytes(blob(manifest["config"]["digest"]))


def specification(place: Path, words: Sequence[str], own: Path, daemon_set: str) -> dict[str, Any]:
    """Runs `words` as the container of that manifest: without the host's network, but with its
    processes; with its capabilities and a root that is read-only. `own` is what it may write to."""
    image = json.loads((place / "config").read_text())["config"]
    found = re.search(r"add: \[([A-Z_, ]+)\]", daemon_set)
    assert found
    rights = [f"CAP_{name}" for name in found[1].split(", ")]
    kinds = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(words),
            "env": image["Env"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(kinds, rights),
        },
        "root": {"path": ROOT, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            *(_shown(path, Path(path), "ro") for path in SHOWN),
            _shown(OWN, own, "rw"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "network", "ipc", "uts")],
            "cgroupsPath": "/kubepods/besteffort/pod00000000-0000-4000-8000-000000000000/ktrace",
        },
    }


def _shown(path: str, source: Path, how: str) -> dict[str, Any]:
    return {"destination": path, "type": "bind", "source": str(source), "options": ["rbind", how]}
