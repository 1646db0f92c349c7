# SPDX-License-Identifier: Apache-2.0
"""Everything about one event, as lines.

The drawing depends on the shape of a value, never on the kind of event: a process with its
ancestors is drawn as a tree, free lists and queue depths as bars, bytes as sizes. So events of a
new probe need no code here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from tracer.live.look import gauge, safe, whole
from tracer.model.address import with_port
from tracer.model.event import Event, Place, Process
from tracer.model.units import size
from tracer.probes.columns import UNKNOWN, container_name, pod_name

LABEL_CELLS = 20
BAR_CELLS = 24


def event_lines(event: Event) -> list[Text]:
    """Label and value on each line, indented below their parents."""
    lines = [_line("pod", _where(event.place))] if event.place else []
    return lines + list(_members(event.body, 0))


def _members(values: Mapping[str, Any], depth: int) -> Iterator[Text]:
    for name, value in values.items():
        if name == "limit" and "depth" in values:
            continue
        if name == "depth" and values.get("limit"):
            yield _line("depth", _depth(value, values["limit"]), depth)
        elif name == "start_boot_ns":
            continue
        else:
            yield from _member(name, value, depth)


def _member(name: str, value: Any, depth: int) -> Iterator[Text]:
    if isinstance(value, Process):
        yield _line(name, f"{safe(value.comm)}[{value.pid}]", depth, "bold")
        yield from _process(value, depth + 1)
    elif isinstance(value, Mapping) and "address" in value:
        yield _line(name, _endpoint(value), depth)
    elif isinstance(value, Mapping):
        yield _line(name, "", depth)
        yield from _members(value, depth + 1)
    elif _is_list_of_mappings(value):
        yield _line(name, "", depth)
        for entry in value:
            if isinstance(entry, Mapping) and "free" in entry:
                yield from _free_list(entry, depth + 1)
            elif isinstance(entry, Process):
                yield from _member("", entry, depth + 1)
            else:
                yield _line("", "  ".join(_pair(k, v) for k, v in entry.items()), depth + 1)
    else:
        yield _line(name, _scalar(name, value), depth)


def _is_list_of_mappings(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(entry, (Mapping, Process)) for entry in value)


def _process(process: Process, depth: int) -> Iterator[Text]:
    yield _line("executable", safe(process.exe), depth)
    yield _line("arguments", safe(" ".join(process.argv) if process.argv else None), depth)
    yield _line("uid", _number(process.uid), depth)
    if process.tid != process.pid:
        yield _line("thread", str(process.tid), depth)
    yield _line("pid in pod", _number(process.pid_in_pod), depth)
    yield _line("pod", _where(process.place), depth)
    for name, value in getattr(process, "facts", {}).items():
        yield from _member(name, value, depth)
    yield from _tree(process, depth)


def _tree(process: Process, depth: int) -> Iterator[Text]:
    """Oldest ancestor first, each the parent of the next."""
    chain = [*reversed(process.ancestry), (process.pid, process.comm)]
    if len(chain) == 1:
        return
    for generation, (pid, comm) in enumerate(chain):
        branch = "   " * (generation - 1) + "└─ " if generation else ""
        label = "ancestry" if not generation else ""
        style = "bold" if generation == len(chain) - 1 else ""
        yield _line(label, f"{branch}{safe(comm)}[{pid}]", depth, style)


def _free_list(zone: Mapping[str, Any], depth: int) -> Iterator[Text]:
    """One bar per order, in blocks; the zone's longest list fills its bar."""
    yield _line(f"node {zone['node']}", safe(zone["zone"]), depth, "bold")
    most = max(zone["free"], default=0)
    for order, blocks in enumerate(zone["free"]):
        bar = gauge(blocks, most, BAR_CELLS)
        yield _line(f"order {order}", f"{bar} {whole(blocks)}", depth + 1)


def _depth(depth: int | None, limit: int) -> str:
    if depth is None:
        return f"{UNKNOWN} of {whole(limit)}"
    return f"{gauge(depth, limit, BAR_CELLS)} {whole(depth)} of {whole(limit)}"


def _endpoint(end: Mapping[str, Any]) -> str:
    if end["address"] is None:
        return _where(end["pod"])
    address = with_port(end["address"], UNKNOWN if end["port"] is None else end["port"])
    return f"{address}  {_where(end['pod']) if end['pod'] else ''}".rstrip()


def _where(place: Place | None) -> str:
    if place is None or not place.pod:
        return safe(container_name(place))
    container = container_name(place)
    return safe(f"{pod_name(place)}  {container}" if container else pod_name(place))


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{size(value)}  ({whole(value)})" if "bytes" in name else whole(value)
    if isinstance(value, (list, tuple)):
        return safe(" ".join(map(str, value)) or None)
    return safe(None if value is None else str(value))


def _pair(name: str, value: Any) -> str:
    words = safe(None if value is None else str(value))
    if name.endswith("_bytes") and isinstance(value, int):
        words = size(value) or words
    return f"{_label(name)} {words}"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _label(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _line(name: str, value: str, depth: int = 0, style: str = "") -> Text:
    label = "  " * depth + _label(name)
    line = Text(no_wrap=True)
    line.append(f"{label:<{LABEL_CELLS}} ", "dim")
    line.append(value, style)
    return line


def joined(words: Sequence[str | None], by: str = " · ") -> str:
    return by.join(word for word in words if word)
