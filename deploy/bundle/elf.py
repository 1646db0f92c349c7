# SPDX-License-Identifier: Apache-2.0
"""The needs of a program or library of any architecture, from its ELF headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def needed(path: Path) -> list[str]:
    """The names of the needed libraries."""
    with path.open("rb") as file:
        sections = ELFFile(file).iter_sections()
        dynamic = [section for section in sections if isinstance(section, DynamicSection)]
        tags: list[Any] = [tag for each in dynamic for tag in each.iter_tags("DT_NEEDED")]
        return [tag.needed for tag in tags]


def interpreter(path: Path) -> str:
    """The path of the loader."""
    with path.open("rb") as file:
        (segment,) = (s for s in ELFFile(file).iter_segments() if isinstance(s, InterpSegment))
        name: str = segment.get_interp_name()
        return name
