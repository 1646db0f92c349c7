# SPDX-License-Identifier: Apache-2.0
"""The image, as a runtime starts it with the rights of the DaemonSet's pod, traces on this kernel:
in the guests that have it."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.kubernetes.build import whole
from tests.deploy.nodes import traces_kills
from tests.support import oci
from tests.support.ktrace import BACKEND, IN_GUEST

if IN_GUEST and BACKEND == "core" and oci.PLACE.exists():

    def test_a_kill(tmp_path: Path) -> None:
        """It brings its interpreter and all libraries: the program of the image's PATH is found."""
        shown = tmp_path / "shown"
        shown.mkdir()

        def command(*words: str) -> list[str]:
            told = oci.specification(oci.PLACE, ["ktrace", *words], shown, whole())
            (oci.PLACE / "config.json").write_text(json.dumps(told))
            return ["crun", "--cgroup-manager=cgroupfs", "run", f"--bundle={oci.PLACE}", "ktrace"]

        traces_kills(command, shown / "ready", f"{oci.OWN}/ready")
