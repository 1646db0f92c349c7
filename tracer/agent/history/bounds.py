# SPDX-License-Identifier: Apache-2.0
"""How much a history may take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bounds:
    """`share` is the part of the file system, between 0 and 1."""

    seconds: float
    size: int
    share: float

    def bytes(self, directory: Path) -> int:
        """The most that a history here may take. Raises OSError."""
        found = os.statvfs(directory)
        return min(self.size, int(found.f_blocks * found.f_frsize * self.share))
