# SPDX-License-Identifier: Apache-2.0
"""Everything that installs ktrace on nodes: the wheel, the bundle, packages and the image made of
it, and manifests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


class BuildError(Exception):
    """A tool or input of the build is missing or has failed. The message names it and the
    remedy."""


def version() -> str:
    """The version being built. It is written only in pyproject.toml."""
    told: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return told


def made_at() -> int:
    """The commit's time in seconds since 1970, unless SOURCE_DATE_EPOCH is set
    (https://reproducible-builds.org/specs/source-date-epoch/)."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(told)
