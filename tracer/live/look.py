# SPDX-License-Identifier: Apache-2.0
"""The look of values: severity as a sign and a colour, times in one zone, untrusted names escaped.

Colours come from the theme, so they fit dark and light terminals. The sign alone carries the same
meaning.
"""

from __future__ import annotations

from datetime import datetime, tzinfo

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tracer.model.event import Clock
from tracer.outputs.escape import escape
from tracer.probes.columns import UNKNOWN

ALARM = "!"
LOST = "‼"
TOLD = "»"
_BLOCKS = " ▁▂▃▄▅▆▇█"


class Times:
    """Kernel time as time of day in one zone; None is the machine's own."""

    def __init__(self, clock: Clock, zone: tzinfo | None) -> None:
        self._clock = clock
        self._zone = zone
        self._second = -1
        self._text = ""

    def of_day(self, boot_ns: int) -> str:
        """`04:07:04.160`"""
        second, rest = divmod(boot_ns + self._clock.offset_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = self._local(second).strftime("%H:%M:%S")
        return f"{self._text}.{rest // 1_000_000:03d}"

    def date(self, boot_ns: int) -> str:
        return self._at(boot_ns).strftime("%Y-%m-%d")

    def zone(self, boot_ns: int) -> str:
        """`UTC`, `CET`; with the offset from UTC if the zone's name does not imply it."""
        local = self._at(boot_ns)
        name, offset = local.tzname() or "", local.strftime("%z")
        if name in ("UTC", "GMT") or name[:1] in "+-":
            return name or "UTC"
        return f"{name} {offset[:3]}:{offset[3:]}"

    def _at(self, boot_ns: int) -> datetime:
        return self._local((boot_ns + self._clock.offset_ns) // 1_000_000_000)

    def _local(self, second: int) -> datetime:
        return datetime.fromtimestamp(second, self._zone).astimezone(self._zone)


def safe(value: str | None) -> str:
    """Unknown values become a dash; unprintable characters are escaped."""
    return UNKNOWN if value is None else escape(value)


def fitted(text: str, width: int, style: str = "") -> Text:
    """The text in exactly this many cells; never parsed as markup."""
    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - 1)) + "…"
    return Text(set_cell_size(text, width), style, no_wrap=True, end="")


def sparkline(values: tuple[int, ...], width: int) -> str:
    """The last `width` values; the highest fills its cell."""
    shown = values[-width:]
    top = max(shown, default=0)
    if not top:
        return " " * width
    cells = (_BLOCKS[-(-value * (len(_BLOCKS) - 1) // top)] for value in shown)
    return "".join(cells).rjust(width)


def gauge(value: int, most: int, width: int) -> str:
    """`██████░░░░`: the value as a share of `most`."""
    filled = min(width, round(width * value / most)) if most > 0 else 0
    return "█" * max(filled, 1 if value else 0) + "░" * (width - max(filled, 1 if value else 0))


def whole(number: int) -> str:
    return f"{number:,}"


def span(seconds: float) -> str:
    """`1:02:03`, `02:03`"""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
