# SPDX-License-Identifier: Apache-2.0
"""What `ktrace doctor` prints one of for everything that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
SIGNS = {"ok": ("✔", "green"), "note": ("·", "yellow"), "problem": ("✘", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """A `note` limits what can be told; a `problem` stops something from working."""

    state: State
    what: str
    found: str
    remedy: str | None = None
