# SPDX-License-Identifier: Apache-2.0
"""Shows the nodes' output: a table, JSON lines, text, or a recording in a file.

Events of several nodes are merged in order of time. Each node's events are in order already, so the
earliest one is shown as soon as every node has sent a later one, or has had time to. Differences
between the nodes' clocks are not corrected.
"""

from __future__ import annotations

import heapq
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.model.errors import KtraceError
from tracer.outputs.escape import escape
from tracer.outputs.terminal import terminal_width, wrapped

if TYPE_CHECKING:
    from tracer.outputs.table import Table

# How long one node's event waits for earlier events of other nodes.
HOLD_SECONDS = 0.5
MAX_HELD = 20_000
MAX_LINE = 4 << 20
MAX_COLUMNS = 40
_SGR = re.compile("(\x1b\\[[0-9;]{0,20}m)")


class Lines:
    """Splits each node's output into whole lines."""

    def __init__(self) -> None:
        self._begun: dict[str, bytes] = {}

    def of(self, node: str, data: bytes) -> list[bytes]:
        *lines, rest = (self._begun.get(node, b"") + data).split(b"\n")
        if len(rest) > MAX_LINE:
            raise KtraceError(f"node {node} sends a line of more than {MAX_LINE >> 20} MiB")
        self._begun[node] = rest
        return lines


class InOrder:
    """Items of several nodes in order of time."""

    def __init__(self, nodes: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._latest: dict[str, Any] = dict.fromkeys(nodes)
        self._held: list[tuple[Any, int, float, Any]] = []
        self._clock = clock
        self._count = 0

    def add(self, node: str, moment: Any, item: Any) -> None:
        self._count += 1
        heapq.heappush(self._held, (moment, self._count, self._clock(), item))
        if node in self._latest:
            self._latest[node] = moment

    def gone(self, node: str) -> None:
        self._latest.pop(node, None)

    def due(self, every: bool = False) -> Iterator[Any]:
        now = self._clock()
        while self._held:
            moment, _, came, _ = self._held[0]
            seen = all(one is not None and one >= moment for one in self._latest.values())
            waited = now - came >= HOLD_SECONDS or len(self._held) > MAX_HELD
            if not (every or seen or waited):
                return
            yield heapq.heappop(self._held)[-1]


class Events:
    """The common part of JSON and table; `count` is the number of events wanted."""

    def __init__(self, nodes: Sequence[str], count: int | None) -> None:
        self.enough = False
        self._lines = Lines()
        self._order = InOrder(nodes)
        self._left = count

    def take(self, node: str, data: bytes) -> None:
        import orjson

        for line in self._lines.of(node, data):
            try:
                told = orjson.loads(line)
                if not isinstance(told, dict):
                    raise ValueError
                self._told(node, told)
            except (ValueError, KeyError, TypeError) as error:
                words = line[:80].decode("utf-8", "backslashreplace")
                raise KtraceError(
                    f"ktrace on node {node} says what is no event: {words}",
                    "is it another version? --image NAME",
                ) from error
        self.idle()

    def idle(self) -> None:
        self._show(self._wanted(self._order.due()))

    def gone(self, node: str) -> None:
        self._order.gone(node)
        self.idle()

    def close(self) -> None:
        self._show(self._wanted(self._order.due(every=True)))

    def _told(self, node: str, told: dict[str, Any]) -> None:
        raise NotImplementedError

    def _show(self, items: Iterator[Any]) -> None:
        raise NotImplementedError

    def _is_loss(self, item: Any) -> bool:
        raise NotImplementedError

    def _wanted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            if self._left is not None and not self._is_loss(item):
                if not self._left:
                    return
                self._left -= 1
                self.enough = not self._left
            yield item


class JsonLines(Events):
    def _told(self, node: str, told: dict[str, Any]) -> None:
        told["node"] = told.get("node") or node
        self._order.add(node, str(told.get("time", "")), told)

    def _show(self, items: Iterator[Any]) -> None:
        import orjson

        lines = [orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items]
        if lines:
            sys.stdout.buffer.write(b"".join(lines))
            sys.stdout.buffer.flush()

    def _is_loss(self, item: Any) -> bool:
        return bool(item.get("kind") == "lost")


class Drawn(Events):
    """A table of rows made on the nodes (tracer/outputs/rows.py), drawn for this terminal with
    times in this machine's zone."""

    def __init__(
        self,
        nodes: Sequence[str],
        count: int | None,
        *,
        wide: bool,
        colour: bool,
        headers: bool,
    ) -> None:
        super().__init__(nodes, count)
        self._several = len(nodes) > 1
        self._look = {"wide": wide, "colour": colour, "headers": headers}
        self._titles: dict[str, list[str]] = {}
        self._table: Table | None = None

    def _told(self, node: str, told: dict[str, Any]) -> None:
        from tracer.model.event import Event

        if "columns" in told:
            columns = [tuple(one) for one in told["columns"][:MAX_COLUMNS]]
            self._titles[node] = [str(title) for title, *_ in columns]
            self._table = self._table or self._begin(columns)
            return
        moment = int(told["time"])
        if "lost" in told:
            lost = {"count": int(told["lost"]["count"]), "probe": str(told["lost"]["probe"])}
            if self._several:
                lost["probe"] = f"{node}'s {lost['probe']}"
            lost["probe"] = escape(str(lost["probe"]))
            self._order.add(node, moment, Event("lost", moment, None, None, lost))
            return
        cells = dict(zip(self._titles[node], told["cells"], strict=True))
        body = {"NODE": node, **cells, "alarm": bool(told["alarm"])}
        self._order.add(node, moment, Event("row", moment, None, None, body))

    def _show(self, items: Iterator[Any]) -> None:
        if self._table:
            for item in items:
                self._table.event(item)
            self._table.flush()

    def _is_loss(self, item: Any) -> bool:
        return bool(item.kind == "lost")

    def _begin(self, described: Sequence[tuple[Any, ...]]) -> Table:
        from tracer.model.event import Clock
        from tracer.outputs.table import Table
        from tracer.probes.columns import Column

        def column(title: str, narrow: int, width: int, rank: int = 0) -> Column:
            return Column(
                escape(title), lambda event: _cell(event.body.get(title)), narrow, width, rank
            )

        columns = [
            column(str(title), max(1, int(narrow)), max(1, int(width)), int(rank))
            for title, narrow, width, rank in described
        ]
        if self._several:
            columns.insert(0, column("NODE", 8, 30))
        return Table(
            sys.stdout,
            Clock(0),
            columns,
            lambda event: bool(event.body["alarm"]),
            fit=sys.stdout.isatty(),
            **self._look,
        )


class Text:
    """Text in order of arrival; terminal controls other than colours are escaped. With `named`,
    each line begins with its node. A verdict's lines stay together, and on a terminal they are
    wrapped between words."""

    enough = False

    def __init__(self, nodes: Sequence[str], *, named: bool, verdicts: bool = False) -> None:
        self._lines = Lines()
        self._verdicts = verdicts
        self._width = max(map(len, nodes)) if named else 0
        self._blocks: dict[str, tuple[list[str], float]] = {}

    def take(self, node: str, data: bytes) -> None:
        for line in self._lines.of(node, data):
            shown = visible(line.decode("utf-8", "backslashreplace"))
            lines, _ = self._blocks.get(node, ([], 0.0))
            if self._width:
                shown = f"{node:<{self._width}}  {shown}"
            if self._verdicts and lines and _begins(shown):
                self._print(lines)
                lines = []
            if self._verdicts:
                shown = wrapped(shown, 4, terminal_width())
            self._blocks[node] = ([*lines, shown], time.monotonic())

    def idle(self) -> None:
        now = time.monotonic()
        for node, (lines, came) in list(self._blocks.items()):
            if now - came > 0.05:
                self._print(lines)
                del self._blocks[node]

    def gone(self, node: str) -> None:
        lines, _ = self._blocks.pop(node, ([], 0.0))
        self._print(lines)

    def close(self) -> None: ...

    def _print(self, lines: Sequence[str]) -> None:
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()


class Recordings:
    """One file for each node, readable by its owner only. It keeps everything received, however the
    session ends."""

    enough = False

    def __init__(self, nodes: Sequence[str], path: Path) -> None:
        from tracer.recording.files import RecordingFile

        self.paths = {node: path_of(path, node, len(nodes)) for node in nodes}
        self._files = {node: RecordingFile(one) for node, one in self.paths.items()}

    def take(self, node: str, data: bytes) -> None:
        try:
            self._files[node].write(data)
        except OSError as error:
            raise KtraceError(
                f"{self.paths[node]}: {error.strerror}", "what had come until then is in the file"
            ) from error

    def idle(self) -> None: ...

    def gone(self, node: str) -> None:
        try:
            self._files[node].close()
        except OSError as error:
            raise KtraceError(f"{self.paths[node]}: {error.strerror}") from error

    def close(self) -> None: ...


def path_of(path: Path, node: str, nodes: int) -> Path:
    """`here.ktrace` becomes `here.NODE.ktrace` with several nodes."""
    return path if nodes == 1 else path.with_name(f"{path.stem}.{node}{path.suffix}")


def visible(line: str) -> str:
    """Keeps colours; other unprintable characters are escaped."""
    if line.isprintable():
        return line
    parts = _SGR.split(line)
    return "".join(part if n % 2 else escape(part) for n, part in enumerate(parts))


def in_colour(choice: str) -> bool:
    if choice in ("always", "never"):
        return choice == "always"
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def _begins(line: str) -> bool:
    """Whether it is a verdict's first line; its other lines are indented."""
    return bool(line) and not _SGR.sub("", line).startswith(" ")


def _cell(value: Any) -> str | None:
    return None if value is None else str(value)
