# SPDX-License-Identifier: Apache-2.0
"""What a module says of itself in one sentence: the first paragraph of its docstring, which is also
what `--help` shows of a command or a probe."""

from __future__ import annotations

import importlib.util
from importlib.abc import InspectLoader


def summary(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


def summary_of(module: str) -> str:
    """The same, without running the module: the compiler puts its docstring first."""
    spec = importlib.util.find_spec(module)
    assert spec and isinstance(spec.loader, InspectLoader)
    code = spec.loader.get_code(module)
    first = code.co_consts[0] if code else None
    assert isinstance(first, str), f"{module} has no docstring"
    return summary(first)
