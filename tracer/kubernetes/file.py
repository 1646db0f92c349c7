# SPDX-License-Identifier: Apache-2.0
"""What `kubectl get events,pods -o json` printed."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import orjson

from tracer.kernel import limits
from tracer.kubernetes.objects import facts
from tracer.model.errors import UsageError
from tracer.model.kubernetes import Fact

MAX_FILE = 128 << 20
STDIN = "-"
_HOW = "kubectl get events,pods -A -o json >events.json"


def facts_of_file(file: str) -> list[Fact]:
    """`-` is standard input. Raises `UsageError` if there are no facts in it."""
    told = "standard input" if file == STDIN else file
    data = _read(file, told)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{told} is no JSON: {error}", _HOW) from error
    found = list(facts(value))
    if not found and not _is_empty_list(value):
        raise UsageError(f"{told} holds neither Events nor pods of Kubernetes", _HOW)
    return found


def _read(file: str, told: str) -> bytes:
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                if stat.S_ISBLK(Path(file).stat().st_mode):
                    raise UsageError(f"{told} is no file", _HOW)
                data = opened.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = limits.reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{told} cannot be read: {why}", _HOW) from error
    if len(data) > MAX_FILE:
        raise UsageError(
            f"{told} is larger than {MAX_FILE >> 20} MiB",
            "choose a namespace: kubectl get events,pods -n NAMESPACE -o json >events.json",
        )
    return data


def _is_empty_list(value: object) -> bool:
    return isinstance(value, dict) and value.get("items") == []
