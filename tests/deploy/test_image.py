# SPDX-License-Identifier: Apache-2.0
"""The image as an archive: for each kind of machine its own, in one index."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.architecture import ARCHITECTURES
from deploy.image.build import build
from deploy.kubernetes.build import whole


@pytest.mark.usefixtures("root")
def test_one_image_for_all_kinds_of_machines(tmp_path: Path) -> None:
    archives = []
    for moment in (1, 2):
        place = tmp_path / str(moment)
        bundles = {}
        for architecture in ARCHITECTURES:
            bundles[architecture] = place / architecture.machine
            bundles[architecture].mkdir(parents=True)
            (bundles[architecture] / "ktrace").write_text(architecture.machine)
        archives.append(place / "image.oci.tar")
        name = build(bundles, archives[-1], lambda words: None)
        assert f"image: {name}\n" in whole()
    first, second = map(blobs, archives)
    assert first.keys() == second.keys()
    assert archives[0].read_bytes() == archives[1].read_bytes()
    index = next(told for told in first.values() if len(told.get("manifests", ())) == 2)
    platforms = {one["platform"]["architecture"] for one in index["manifests"]}
    assert platforms == {"amd64", "arm64"}
    for one in index["manifests"]:
        config = first[first[one["digest"]]["config"]["digest"]]
        assert config["architecture"] == one["platform"]["architecture"]
        assert config["config"]["Env"] == ["PATH=/usr/bin"]


def blobs(archive: Path) -> dict[str, dict[str, Any]]:
    """Those that are JSON, by digest; of the others, which are layers, the digest alone."""
    found: dict[str, dict[str, Any]] = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            if member.name.startswith("blobs/") and file:
                data = file.read()
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                found[digest] = json.loads(data) if data.startswith(b"{") else {}
    return found
