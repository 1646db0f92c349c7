# SPDX-License-Identifier: Apache-2.0
"""krew unpacks plain files from a .tar.gz or .zip, and links `kubectl-ktrace` to the file that the
manifest names. Under this name the bundle's launcher is the plugin."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from deploy import BuildError

# uname(1)'s name → krew's
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

HEAD = """\
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: ktrace
spec:
  version: v{version}
  homepage: {base}
  shortDescription: Says what the kernel did to your pods
  description: |
    Catches signals, exits, OOM kills, failed page allocations, TCP resets and refused connections
    at the moment they happen, and names the pod, the container and the process on each side.
    ktrace runs on the pods' nodes: in the pod of its DaemonSet, or in one that is made for it and
    taken away again.
  caveats: |
    Without the DaemonSet it makes privileged pods, of the image localhost/ktrace:{version} unless
    --image names another. What it may do in a cluster is what kubectl may.
  platforms:
"""
PLATFORM = """\
  - selector:
      matchLabels:
        os: linux
        arch: {architecture}
    uri: {base}/{file}
    sha256: {digest}
    files:
    - from: {root}/*
      to: .
    bin: ktrace
"""


def pack(bundle: Path) -> Path:
    """Packs the bundle for krew, which refuses links."""
    target = bundle.with_name(f"{bundle.name}.tar.gz")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in [bundle, *sorted(bundle.rglob("*"))]:
            if not path.is_symlink():
                archive.add(
                    path, path.relative_to(bundle.parent), recursive=False, filter=_anonymous
                )
    target.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    return target


def manifest(archives: Mapping[Path, Path], base: str) -> str:
    """`archives` are by their bundle's directory; `base` is the URL of their download."""
    versions = {bundle.name.split("-")[1] for bundle in archives}
    if len(versions) != 1:
        raise BuildError(f"these are bundles of {len(versions)} versions: make clean bundle")
    base = base.rstrip("/")
    text = HEAD.format(version=versions.pop(), base=base)
    for bundle, archive in archives.items():
        text += PLATFORM.format(
            architecture=ARCHITECTURES[bundle.name.rpartition("-")[2]],
            base=base,
            file=archive.name,
            digest=hashlib.sha256(archive.read_bytes()).hexdigest(),
            root=bundle.name,
        )
    return text


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
