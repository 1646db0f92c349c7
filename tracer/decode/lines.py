# SPDX-License-Identifier: Apache-2.0
"""Strips the prefixes of log tools from a line.

The kernel's own text begins after the prefixes of dmesg, syslog, the journal, /dev/kmsg, Talos,
containers' logs or grep. Only this module knows them. A prefix is only taken off the beginning: a
process may have a name that looks like one, and names stand further behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# More nested prefixes than any real line has.
MAX_PREFIXES = 12
MAX_JSON = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """`when` is the time as it stands in the line; `host` and `tag` as a log daemon wrote them."""

    text: str
    when: str | None = None
    host: str | None = None
    tag: str | None = None


def read(raw: str) -> Line:
    """Any text has an answer."""
    text, said = raw.strip(), dict[str, str]()
    if _COLOUR.match(text):
        text = _COLOUR.sub("", text).strip()
    behind_stamp = False
    for _ in range(MAX_PREFIXES):
        if text[:1] == "{" and (inside := _from_json(text)) is not None:
            text, behind_stamp = inside.pop("text"), False
            said = inside | said
        elif behind_stamp and (found := _HOST_AND_TAG.match(text)):
            said = {"host": found["host"], "tag": found["tag"]} | said
            text, behind_stamp = text[found.end() :], False
        elif found := _first(text):
            stamp = found.groupdict().get("when")
            if stamp:
                said.setdefault("when", stamp.strip())
            behind_stamp = "syslog" in found.re.groupindex
            text = text[found.end() :]
        else:
            break
        text = text.strip()
    return Line(_unquoted(text), said.get("when"), said.get("host"), said.get("tag"))


def name_before(text: str, end: int) -> str:
    """The process name from the line's beginning to `end`. The kernel gives names 15 characters;
    kernel threads and threads of libraries may have more."""
    name = text[max(0, end - 256) : end].rpartition("kernel: ")[2]
    return name.strip(" :")[-255:].strip() or "a process"


def _first(text: str) -> re.Match[str] | None:
    for pattern in _PREFIXES:
        if found := pattern.match(text):
            return found
    return None


_MONTH_DAY = r"[^\W\d_]{3,5}\.? {1,2}\d{1,2}"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO = rf"\d{{4}}[-/]\d\d[-/]\d\d[T ]{_CLOCK} ?(?:Z|[+-]\d\d:?\d\d|[A-Z]{{3,4}}\b)?"
_FACILITIES = "kern|user|mail|daemon|auth|authpriv|syslog|lpr|news|uucp|cron|ftp|local\\d"
_LEVELS = "emerg|alert|crit|err|error|warn|warning|notice|info|debug"

_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        # /dev/kmsg: priority, number, microseconds, flags
        r"\d{1,3},\d{1,20},(?P<when>\d{1,20}),[-c+][^;\n]{0,64};",
        # the number for facility and level, in the syslog protocol and in dmesg -r
        r"<\d{1,3}>(?:1 (?=\d{4}-))?",
        # dmesg: seconds since the boot, or since the line before
        r"\[ {0,6}(?P<when>[<+]? {0,6}\d{1,12}[.,]\d{1,9}>?) {0,2}(?:@\d{1,4})?\]:? ?",
        # dmesg -T in any language, and Talos
        r"\[(?P<when>[^\[\]\n]{3,40}\d\d:\d\d(?::\d\d)?[^\[\]\n]{0,40})\]:? ?",
        # CONFIG_PRINTK_CALLER: the task or the processor
        r"\[ {0,6}[TC]\d{1,10}\] ?",
        # syslog and journalctl: local time, with or without weekday and year; ISO; seconds
        rf"(?P<syslog>)(?P<when>(?:[^\W\d_]{{2,4}}\.?,? )?{_MONTH_DAY}(?:,? \d{{4}})? {_CLOCK}"
        rf"(?: [A-Z]{{3,4}})?(?: \d{{4}})?) ",
        rf"(?P<syslog>)(?P<when>(?:[^\W\d_]{{2,4}}\.? )?{_ISO}) ",
        r"(?P<syslog>)(?P<when>\d{10}\.\d{1,9}) ",
        # containers' logs
        r"(?:stdout|stderr) [FP] ",
        # compose
        r"[\w.-]{1,64} {1,20}\| ",
        # Talos; dmesg -x
        rf"[\w.:-]{{1,64}}: (?:{_FACILITIES}): {{1,8}}(?:{_LEVELS}): ",
        rf"(?:{_FACILITIES}) {{0,8}}:(?:{_LEVELS}) {{0,8}}: ",
        # grep: the file and the number of the line, before something that begins a line
        r"[\w./-]{0,200}(?:log|messages|syslog|dmesg)[\w.-]{0,40}:(?:\d{1,10}:)? ?",
        rf"\d{{1,9}}[:-](?=\[ {{0,6}}[\d<+A-Z]|{_MONTH_DAY} \d\d:|\d{{4}}-\d\d-\d\d[T ])",
        # journalctl -o export and verbose; one member of pretty JSON
        r"MESSAGE=",
        r'"(?:MESSAGE|message|msg|log)" ?: ?(?=")',
        # a quotation
        r"(?:>{1,8} ){1,4}",
        # the log daemons' name for the kernel
        r"(?:[\w.-]{1,255} )?(?:kernel(?:\[\d{1,10}\])?:|\[kernel\]) ",
    )
)

# dmesg begins a line with a colour, and has others in between and at its end. In a line that does
# not begin with one they are a process's own.
_COLOUR = re.compile(r"\x1b\[[\d;]{0,16}m")

# Behind a log daemon's time: the host, perhaps facility and level, and the logging program.
_HOST_AND_TAG = re.compile(
    r"(?P<host>(?:[\w.:@-]{0,254}[\w.@-])?) ?"
    rf"(?:(?:{_FACILITIES})\.(?:{_LEVELS}) )?"
    r"(?<= )(?P<tag>[\w./@()+-]{1,64})(?:\[\d{1,10}\])?(?:: |(?: - - -| \d{1,10} - -) )"
)


def _from_json(text: str) -> dict[str, str] | None:
    """The message in an object of `journalctl -o json`, of a container's log or of a collector."""
    if len(text) > MAX_JSON:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, Mapping):
        return None
    # a collector's envelope around the journal's object
    inner = next((told[key] for key in ("jsonPayload", "_source") if key in told), None)
    told = {**told, **inner} if isinstance(inner, Mapping) else told
    message = next((told[key] for key in ("MESSAGE", "message", "log", "msg") if key in told), None)
    if isinstance(message, list):  # the journal's form for bytes that are not text
        message = _text_of(message)
    if not isinstance(message, str):
        return None
    when = told.get("__REALTIME_TIMESTAMP") or told.get("time") or told.get("timestamp")
    known: dict[str, Any] = {
        "when": when,
        "host": told.get("_HOSTNAME"),
        "tag": told.get("SYSLOG_IDENTIFIER"),
    }
    return {"text": message} | {key: value for key, value in known.items() if _is_short(value)}


def _text_of(numbers: list[Any]) -> str | None:
    try:
        return bytes(numbers).decode("utf-8", "backslashreplace")
    except (ValueError, TypeError):
        return None


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 255


def _unquoted(text: str) -> str:
    for mark in "\"'`":
        if len(text) > 1 and text[0] == text[-1] == mark:
            return text[1:-1].strip()
    if text.startswith('"'):
        return text.removesuffix('",').removeprefix('"').strip()
    return text
