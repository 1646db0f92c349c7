# SPDX-License-Identifier: Apache-2.0
"""A finding of `ktrace doctor`: one for each thing that it checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
SIGNS = {"ok": ("✔", "green"), "note": ("·", "yellow"), "problem": ("✘", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """A `note` is a limit of the output; a `problem` stops something from working."""

    state: State
    what: str
    found: str
    remedy: str | None = None
