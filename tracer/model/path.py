# SPDX-License-Identifier: Apache-2.0
"""Paths in records. The kernel side walks from the leaf to the root, so a record has the names in
that order, a NUL behind each. The root end is missing if it did not fit."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.model.event import text


def path_of(raw: bytes, size: int, whole: bool) -> str:
    """With `…` in front if the root end is missing."""
    return ("" if whole else "…") + text(joined(raw, size))


def joined(raw: bytes, size: int) -> bytes:
    """`/a/b/c` from the names c, b, a."""
    return b"/" + b"/".join(reversed(raw[:size].split(b"\0")[:-1]))


def reversed_names(names: Sequence[bytes]) -> bytes:
    """As the kernel side writes them, from the names a, b, c."""
    return b"".join(name + b"\0" for name in reversed(names))
