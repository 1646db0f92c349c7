# SPDX-License-Identifier: Apache-2.0
"""Kinds of text: each module here knows one, and describes itself with `KIND` or `BLOCK`
(tracer/decode/kind.py). A new one is found because its file is here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from tracer.decode.kind import Answer, Blocks, Kernel, Kind
from tracer.decode.lines import Line


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@cache
def kinds() -> tuple[Kind, ...]:
    """In the order in which they are asked."""
    every = [module.KIND for module in _modules() if hasattr(module, "KIND")]
    return tuple(sorted(every, key=lambda kind: kind.rank))


@cache
def blocks() -> tuple[Blocks, ...]:
    """In the order in which they are asked."""
    every = [module.BLOCK for module in _modules() if hasattr(module, "BLOCK")]
    return tuple(sorted(every, key=lambda block: block.rank))


@cache
def _modules() -> tuple[ModuleType, ...]:
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names())


def explain(line: Line, kernel: Kernel) -> Answer | None:
    """What one line means by itself; None if nothing here knows it."""
    for kind in kinds():
        if kind.concerns(line.text) and (answer := kind.read(line, kernel)):
            return answer
    return None
