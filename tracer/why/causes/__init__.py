# SPDX-License-Identifier: Apache-2.0
"""Each module here knows one cause, and describes itself with `CAUSE`. Nothing else lists them: a
new one is found because its file is here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tracer.why.cause import Cause


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@cache
def causes() -> tuple[Cause, ...]:
    """The least specific first."""
    every = [importlib.import_module(f"{__name__}.{name}").CAUSE for name in names()]
    return tuple(sorted(every, key=lambda cause: cause.specificity))
