# SPDX-License-Identifier: Apache-2.0
"""Tables of data beside the code: the `*.toml` of a folder, found by being there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tables(module: str) -> Iterator[dict[str, Any]]:
    """Those beside the module's file, in the order of their names."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    for path in sorted(Path(module).parent.glob("*.toml")):
        yield tomllib.loads(path.read_text("utf-8"))
