# SPDX-License-Identifier: Apache-2.0
"""Bounds of a probe, told where its other tests stand: `BOUNDS` of tests/unit/probes/test_x.py, by
what stands in front of the row in docs/architecture.md. So a new probe adds to no list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.unit import probes

FOLDER = Path(probes.__file__).parent


class Bound(NamedTuple):
    """The tests of the same module that fail without it, and the numbers of its row: bytes where
    the page has a unit of bytes."""

    tests: tuple[str, ...]
    numbers: tuple[float, ...]


def of_probes() -> Iterator[tuple[str, Path, Bound]]:
    """What it is, the file of its tests, and the bound."""
    for found in pkgutil.iter_modules([str(FOLDER)]):
        if found.name.startswith("test_"):
            module = importlib.import_module(f"{probes.__name__}.{found.name}")
            for what, bound in getattr(module, "BOUNDS", {}).items():
                yield what, FOLDER / f"{found.name}.py", bound
