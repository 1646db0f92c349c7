# SPDX-License-Identifier: Apache-2.0
"""This machine's time zone in words that a node understands without a database of time zones, as
the image of ktrace is: https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/V1_chap08.html
(TZ)."""

from __future__ import annotations

import os
import re
import time
import zoneinfo
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LOCAL = Path("/etc/localtime")
# The last line of a zone's file, https://www.rfc-editor.org/rfc/rfc8536#section-3.3.
RULE = re.compile(rb"\n([A-Za-z0-9<>+\-:,./]{3,80})\n\Z")
MAX_FILE = 1 << 20


def rule(name: str | None = None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The rule of the zone with this name, or None if it is not known here. Without a name that of
    this machine; if that has none, today's distance from UTC."""
    if name:
        return next(filter(None, map(_last_line, _files(name))), None)
    told = environment.get("TZ", "").removeprefix(":")
    for file in _files(told) if told else [LOCAL]:
        if found := _last_line(file):
            return found
    return _of_today()


def _files(name: str) -> list[Path]:
    """A path is one, as the C library has it."""
    return [Path(directory, name) for directory in zoneinfo.TZPATH]


def _last_line(file: Path) -> str | None:
    with suppress(OSError, ValueError), file.open("rb") as zone:
        found = RULE.search(zone.read(MAX_FILE))
        return found[1].decode() if found else None
    return None


def _of_today() -> str:
    """`<+0530>-05:30`: in a rule, west is positive."""
    seconds = time.localtime().tm_gmtoff
    hours, minutes = divmod(abs(seconds) // 60, 60)
    ahead, behind = ("+", "-") if seconds >= 0 else ("-", "+")
    return f"<{ahead}{hours:02}{minutes:02}>{behind}{hours:02}:{minutes:02}"
