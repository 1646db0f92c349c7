# SPDX-License-Identifier: Apache-2.0
"""The bundle traces on this kernel: in the guests that have it."""

from __future__ import annotations

from pathlib import Path

from deploy.packages.build import HOME
from tests.deploy.nodes import traces_kills
from tests.support.ktrace import BACKEND, IN_GUEST

PROGRAM = Path(HOME, "ktrace")

if IN_GUEST and BACKEND == "core" and PROGRAM.exists():

    def test_a_kill(tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        traces_kills([str(PROGRAM)], ready, str(ready))
