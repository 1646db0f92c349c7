# SPDX-License-Identifier: Apache-2.0
"""One module per cause; each describes itself with `CAUSE`. Modules are found by their files, so a
new one needs no registration."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tracer.why.cause import Cause


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@cache
def causes() -> tuple[Cause, ...]:
    """All causes, least specific first."""
    every = [importlib.import_module(f"{__name__}.{name}").CAUSE for name in names()]
    return tuple(sorted(every, key=lambda cause: cause.specificity))
