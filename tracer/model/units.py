# SPDX-License-Identifier: Apache-2.0
"""Quantities in readable units."""

from __future__ import annotations

import re


def size(count: int | None) -> str | None:
    """`512 MiB`; with one decimal where it matters."""
    if count is None:
        return None
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1023.95 and len(units) > 1:
        value /= 1024
        units.pop(0)
    whole = value >= 100 or abs(value - round(value)) < 0.05
    return f"{value:.0f} {units[0]}" if whole else f"{value:.1f} {units[0]}"


def span(nanoseconds: int) -> str:
    """`80 µs`, `1.5 s`, `12 min`: two or three digits in the best unit."""
    length, unit = next((one for one in _SPANS if abs(nanoseconds) >= one[0] * 0.9995), _SPANS[-1])
    value = abs(nanoseconds) / length
    whole = value >= 100 or abs(value - round(value)) < 0.05
    return f"{value:.0f} {unit}" if whole else f"{value:.1f} {unit}"


_SPANS = (
    *((86_400_000_000_000, "d"), (3_600_000_000_000, "h"), (60_000_000_000, "min")),
    *((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns")),
)


def counted(count: int, noun: str) -> str:
    """`1 pod`, `2 pods`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def seconds(text: str) -> float:
    """`30s`, `5m`, `1h30m` or plain seconds. Raises ValueError for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
