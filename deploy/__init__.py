# SPDX-License-Identifier: Apache-2.0
"""What brings ktrace onto nodes: the wheel, the bundle, packages and the image made of it, and
manifests."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


class BuildError(Exception):
    """Something that building needs is missing or has failed; says which, and what brings it."""


def version() -> str:
    """Of what is built, which stands in pyproject.toml alone."""
    told: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return told


def made_at() -> int:
    """Seconds since 1970: of the commit, unless SOURCE_DATE_EPOCH says otherwise
    (https://reproducible-builds.org/specs/source-date-epoch/)."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(told)
