# SPDX-License-Identifier: Apache-2.0
"""The page: what its template is told, and the data that its script reads."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata as packages
from importlib.resources import files
from typing import Any

import orjson

from tracer import probes
from tracer.model.event import Event, LostBody, Place, to_json
from tracer.model.units import span
from tracer.outputs.escape import escape
from tracer.outputs.exporters import Target
from tracer.outputs.exporters.html.aliases import Aliases
from tracer.outputs.exporters.html.details import Details
from tracer.outputs.exporters.html.folding import Folding, Row
from tracer.outputs.exporters.html.lanes import Lane
from tracer.outputs.exporters.html.picture import Picture
from tracer.outputs.exporters.html.told import Told
from tracer.outputs.lives import lives
from tracer.probes import DAMAGE
from tracer.probes.columns import UNKNOWN, container_name, pod_name

# What the page shows: verdicts in full, lanes, rows of tables without the script.
MAX_TOLD, MAX_LANES, MAX_TABLE = 60, 120, 200
# Characters of one text.
MAX_TEXT = 1500
_SIGNS = {"certain": "✓", "likely": "~", "unknown": "?"}


class Page:
    def __init__(
        self,
        target: Target,
        folding: Folding,
        verdicts: Sequence[Event],
        losses: Sequence[Event[LostBody]],
        counts: Told,
    ) -> None:
        """`verdicts` are in the order in which they are told."""
        self._target = target
        self._folding = folding
        self._rows = folding.rows()
        self._losses = losses
        self._aliases = Aliases() if target.anonymous else None
        self._verdicts = verdicts
        self._counts = counts
        self._base = self._began()
        self._until = self._ended()
        self._lanes: dict[str, Lane] = {}
        self._details = Details(self._aliases)
        if self._aliases:
            self._learn(self._aliases)

    def render(self) -> bytes:
        import jinja2
        from markupsafe import Markup

        here = files(__package__)
        script = (here / "page.js").read_text(encoding="utf-8")
        sheet = (here / "page.css").read_text(encoding="utf-8")
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
        lanes = self._make_lanes()
        rows = [self._row(row) for row in self._rows]
        data = self._data(lanes, rows)
        told = self._told(lanes, rows)
        text = template.render(
            **told,
            policy=(
                f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(sheet)}';"
                " base-uri 'none'; form-action 'none'"
            ),
            script=Markup(script),  # noqa: S704 – ktrace's own
            sheet=Markup(sheet),  # noqa: S704
            data=Markup(_in_script(data)),  # noqa: S704 – nothing in it ends a script
        )
        return bytes(text.encode("utf-8", "backslashreplace"))

    # What is told

    def _told(self, lanes: list[Lane], rows: list[list[Any]]) -> dict[str, Any]:
        metadata, ending = self._target.metadata, self._target.ending
        verdicts = [self._verdict(n, event) for n, event in enumerate(self._verdicts[:MAX_TOLD], 1)]
        missing = self._text(ending.missing) if ending.missing else None
        pods = {lane.pod for lane in lanes if lane.pod}
        counted = self._folding.events
        return {
            "title": "an incident"
            if self._aliases
            else escape(self._target.title or "an incident"),
            "node": self._text(self._target.node) if self._target.node else None,
            "day": self._iso(self._base)[:10],
            "begin": self._clock(self._base),
            "end": self._clock(self._until),
            "length": span(max(0, self._until - self._base)),
            "events": counted,
            "pods": len(pods),
            "lost": self._counts.lost,
            "missing": missing,
            "chosen": self._chosen(),
            "ended": self._counts.verdicts,
            "verdicts": verdicts,
            "untold": self._counts.verdicts - len(verdicts),
            "picture": Picture(lanes, rows, self._spans(), self._marks(), self._until - self._base),
            "lanes": [self._lane(lane) for lane in lanes[:MAX_TABLE]],
            "more_lanes": max(0, len(lanes) - MAX_TABLE),
            "table": self._table(rows),
            "rows": len(rows),
            "folded": counted - len(rows),
            "coarseness": self._coarseness(),
            "losses": [self._loss(event) for event in self._losses[:MAX_TABLE]],
            "more_losses": max(0, self._counts.losses - MAX_TABLE),
            "unwatched": [self._text(line) for line in self._unwatched()],
            "facts": [(name, self._text(value)) for name, value in self._facts(metadata)],
            "anonymous": self._aliases is not None,
        }

    def _verdict(self, number: int, event: Event) -> dict[str, Any]:
        body: dict[str, Any] = dict(event.body)
        certainty = str(body["certainty"])
        steps = [
            {
                "offset": _offset(step["offset_ns"]),
                "evidence": any(
                    one["kind"] == step["kind"] and one["boot_ns"] == step["boot_ns"]
                    for one in body["evidence"]
                ),
                "text": self._text(step["text"]),
                "row": self._find(step["kind"], step["boot_ns"], event),
            }
            for step in body["timeline"]
        ]
        return {
            "number": number,
            "headline": self._text(body["headline"]),
            "id": body["verdict"],
            "who": self._text(_subject(event.place)),
            "time": self._clock(event.boot_ns),
            "certainty": certainty if certainty in _SIGNS else "unknown",
            "sign": _SIGNS.get(certainty, "?"),
            "alarm": self._alarm(event),
            "sentence": self._text(body["sentence"]),
            "doubts": [self._text(one) for one in body["doubts"]],
            "steps": steps,
            "hints": [self._text(one) for one in body["hints"]],
            "remedy": self._text(body["remedy"]),
            "others": [(self._text(o["sentence"]), o["certainty"]) for o in body["others"]],
            "told": [] if self._aliases else [self._text(line) for line in _said(body)],
        }

    def _lane(self, lane: Lane) -> dict[str, Any]:
        began, ended = lane.life or (None, None)
        early = began is not None and began <= self._base
        return {
            "title": lane.title,
            "pod": lane.pod or UNKNOWN,
            "container": lane.container or UNKNOWN,
            "began": "before" if early else UNKNOWN if began is None else self._clock(began),
            "ended": UNKNOWN if ended is None else self._clock(ended),
            "events": lane.events,
            "alarms": lane.alarms,
            "headline": lane.headline or "",
        }

    def _loss(self, event: Event[LostBody]) -> dict[str, Any]:
        body = event.body
        return {
            "probe": self._text(str(body["probe"])),
            "count": body["count"],
            "since": self._text(str(body["since"])[11:23]),
            "until": self._clock(event.boot_ns),
        }

    def _table(self, rows: list[list[Any]]) -> list[dict[str, Any]]:
        """The rows that are shown without the script: evidence, what stands out, then the first."""
        wanted = dict.fromkeys(n for found in self._evidence for n in found)
        wanted |= dict.fromkeys(n for n, row in enumerate(self._rows) if row.alarm)
        wanted |= dict.fromkeys(range(len(rows)))
        numbers = sorted(list(wanted)[:MAX_TABLE])
        return [
            {
                "number": n,
                "time": self._clock(self._rows[n].first_ns),
                "kind": escape(self._rows[n].event.kind),
                "who": self._text(_subject(self._rows[n].event.place)),
                "alarm": self._rows[n].alarm,
                "text": self._details.texts[rows[n][7]],
            }
            for n in numbers
        ]

    def _unwatched(self) -> Iterator[str]:
        metadata = self._target.metadata
        yield f"before {self._clock(self._base)} UTC: tracing had not begun"
        if self._target.ending.at_ns is not None and not self._target.ending.missing:
            yield f"after {self._clock(self._until)} UTC: tracing had ended"
        if self._target.ending.missing:
            yield f"the recording's rest, as {self._target.ending.missing}"
        if metadata is None:
            return
        for name in sorted(set(probes.names()) - set(metadata.attached)):
            yield f"{name}: not traced"
        for name, facts in metadata.cannot_tell.items():
            for fact in list(facts)[:20]:
                yield f"{name}, by {metadata.attached.get(name, UNKNOWN)}: not told: {fact}"
        asked = {name: value for name, value in asdict(metadata.selection).items() if value}
        asked.pop("everything", None)
        if asked and not self._aliases:
            words = "; ".join(f"{name} {_listed(value)}" for name, value in asked.items())
            yield f"what was not selected when it was recorded: {words}"
        elif not metadata.selection.everything:
            yield "what concerns no pod or was not selected"

    def _facts(self, metadata: Any) -> Iterator[tuple[str, str]]:
        yield "page", f"made by ktrace {packages.version('ktrace')}"
        if not self._aliases and self._target.title:
            yield "recording", self._target.title
        if metadata is None:
            return
        yield "node", metadata.node or "not known"
        yield "kernel", f"Linux {metadata.kernel} {metadata.machine}"
        yield "recorded by", f"ktrace {metadata.ktrace}"
        yield "span", f"{self._iso(self._base)} to {self._iso(self._until)}"
        for name, point in metadata.attached.items():
            yield f"probe {name}", point

    def _chosen(self) -> str:
        """The selectors, which may hold any part of a name."""
        chosen = self._target.chosen
        return "the selectors are left out" if chosen and self._aliases else self._text(chosen)

    def _coarseness(self) -> str | None:
        """What was folded, in words."""
        folding = self._folding
        if not folding.close_ns and not folding.coarseness:
            return None
        alike = ("alike events", "events of one kind of cause", "events of one kind and place")
        what = [*alike, "events of one kind"][min(folding.coarseness, 3)]
        close = folding.close_ns
        return f"{what} within {span(close)} of each other" if close < 1 << 60 else what

    # Lanes

    def _make_lanes(self) -> list[Lane]:
        found = {id_: (began, ended) for id_, began, ended in lives(self._target.places())}
        for row in self._rows:
            lane = self._lane_of(row.event.place, found)
            lane.events += row.count
            lane.alarms += row.count * row.alarm
        for rank, event in enumerate(self._verdicts):
            lane = self._lane_of(event.place, found)
            if rank < lane.worst:
                lane.worst, lane.headline = rank, self._text(str(event.body["headline"]))
        for row in self._rows:
            if row.event.by_place is not None:
                self._lane_of(row.event.by_place, found)
        order = sorted(
            self._lanes.values(), key=lambda lane: (lane.worst, -lane.alarms, -lane.events)
        )
        first: dict[str, int] = {}
        for n, lane in enumerate(order):  # a pod's containers stand together
            first.setdefault(lane.pod or lane.key, n)
        order.sort(key=lambda lane: first[lane.pod or lane.key])
        for n, lane in enumerate(order):
            lane.number = min(n, MAX_LANES - 1)
            if lane.life:
                began, ended = lane.life
                lane.drawn = began - self._base, None if ended is None else ended - self._base
        return order

    def _lane_of(
        self, place: Place | None, found: dict[str, tuple[int, int | None]] | None = None
    ) -> Lane:
        key = _key(place)
        lane = self._lanes.get(key)
        if lane is None:
            told_pod, told_container = pod_name(place), container_name(place)
            title = _subject(place) if key else f"node {self._target.node}".strip()
            lane = self._lanes[key] = Lane(
                key,
                self._text(title),
                self._text(told_pod) if told_pod else None,
                self._text(told_container) if told_container else None,
                life=(found or {}).get(key),
            )
            labels = place.pod.labels if place and place.pod else None
            if labels and not self._aliases:
                lane.labels = {escape(k): self._text(v) for k, v in list(labels.items())[:40]}
        return lane

    def _number(self, place: Place | None) -> int:
        """Of its lane; -1 if it has none."""
        lane = self._lanes.get(_key(place))
        return lane.number if lane else -1

    # Data

    def _row(self, row: Row) -> list[Any]:
        """In the order in which the script takes it apart."""
        event = row.event
        target, source = self._lane_of(event.place), None
        if event.by_place is not None:
            source = self._lane_of(event.by_place)
        elsewhere = source is not None and source.number != target.number
        return [
            row.first_ns - self._base,
            row.last_ns - row.first_ns,
            row.count,
            target.number,
            source.number if source and elsewhere else -1,
            self._details.kind(event.kind),
            int(row.alarm),
            self._details.text(self._sentence(row)),
            -1,
            event.about.pid if event.about and 0 <= event.about.pid < 1 << 32 else 0,
        ]

    def _data(self, lanes: list[Lane], rows: list[list[Any]]) -> bytes:
        for n in sorted(range(len(rows)), key=lambda n: not self._rows[n].alarm):
            event = self._rows[n].event
            place = event.place.json() if event.place else (None, None)
            rows[n][8] = self._details.body({"pod": place[0], "container": place[1], **event.body})
        self._evidence = [
            sorted(
                {n for one in event.because if (n := self._find(one.kind, one.boot_ns, one)) >= 0}
            )
            for event in self._verdicts[:MAX_TOLD]
        ]
        data = {
            "zero": str(self._base),
            "offset": str(self._target.clock.offset_ns),
            "node": self._text(self._target.node) if self._target.node else None,
            "span": self._until - self._base,
            "lanes": [
                [lane.title, lane.pod, lane.container, lane.labels, lane.drawn]
                for lane in lanes[:MAX_LANES]
            ],
            "kinds": self._details.kinds,
            "texts": self._details.texts,
            "parts": self._details.parts,
            "bodies": self._details.bodies,
            "rows": rows,
            "spans": self._spans(),
            "marks": self._marks(),
            "evidence": self._evidence,
            "told": [self._verdict_json(event) for event in self._verdicts[:MAX_TOLD]],
        }
        return orjson.dumps(data)

    def _spans(self) -> list[list[Any]]:
        """Where events were lost."""
        return [
            [
                max(0, self._since(event) - self._base),
                event.boot_ns - self._base,
                f"{event.body['count']} {self._text(str(event.body['probe']))} events lost",
            ]
            for event in self._losses
        ]

    def _marks(self) -> list[list[int]]:
        """The moments of the verdicts, with their lanes."""
        return [
            [event.boot_ns - self._base, self._number(event.place)]
            for event in self._verdicts[:MAX_TOLD]
        ]

    def _since(self, event: Event[LostBody]) -> int:
        from datetime import datetime

        try:
            moment = datetime.fromisoformat(str(event.body["since"])[:19] + "+00:00")
            return int(moment.timestamp()) * 1_000_000_000 - self._target.clock.offset_ns
        except (ValueError, OverflowError):
            return event.boot_ns

    def _verdict_json(self, event: Event) -> str | None:
        try:
            line = to_json(event, self._target.clock, self._target.node)
        except DAMAGE:
            return None
        if self._aliases:
            line = orjson.dumps(self._aliases.json(orjson.loads(line)))
        return line.decode().rstrip() if len(line) < 20_000 else None

    def _find(self, kind: str, boot_ns: int, event: Event) -> int:
        """The row of this event; -1 if it is not in the page."""
        if self._index is None:
            self._index = {}
            for n, row in enumerate(self._rows):
                lane = self._number(row.event.place)
                self._index.setdefault((row.event.kind, lane), []).append(n)
                self._index.setdefault((row.event.kind, row.first_ns, "first"), []).append(n)
        for n in self._index.get((kind, self._number(event.place)), ()):
            if self._rows[n].first_ns > boot_ns:
                break
            if self._rows[n].last_ns >= boot_ns:
                return n
        return self._index.get((kind, boot_ns, "first"), [-1])[-1]

    _index: dict[Hashable, list[int]] | None = None
    _evidence: Sequence[Sequence[int]] = ()

    # Words

    def _sentence(self, row: Row) -> str:
        try:
            words = self._target.sentence(row.event)
        except DAMAGE:
            words = row.event.kind
        words = self._text(words)
        if row.count > 1:
            words += f", {row.count:,} times within {span(row.last_ns - row.first_ns)}"
        return words

    def _text(self, text: str) -> str:
        """As it is shown: escaped, with aliases if they are asked for, and not endless."""
        if self._aliases:
            text = self._aliases.text(text)
        text = escape(text)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

    def _learn(self, aliases: Aliases) -> None:
        if self._target.node:
            aliases.learn("node", self._target.node)
        aliases.learn_places(self._target.places())
        for row in self._rows:
            aliases.learn_event(row.event)
        for event in self._verdicts:
            aliases.learn_event(event)

    def _alarm(self, event: Event) -> bool:
        try:
            return self._target.alarm(event)
        except DAMAGE:
            return True

    def _iso(self, boot_ns: int) -> str:
        try:
            return self._target.clock.iso(boot_ns)
        except (OverflowError, ValueError, OSError):
            return f"{boot_ns} ns after the boot"

    def _clock(self, boot_ns: int) -> str:
        """`04:07:04.160`"""
        whole = self._iso(boot_ns)
        return whole[11:23] if whole.endswith("Z") else whole

    def _began(self) -> int:
        """The earliest moment in the page: of the recording, or of its first event."""
        moments = [row.first_ns for row in self._rows[:1]]
        if self._target.metadata is not None and not self._target.chosen:
            moments.append(self._target.metadata.began)
        moments += [event.boot_ns for event in self._verdicts if not self._rows]
        return max(0, min(moments, default=0))

    def _ended(self) -> int:
        moments = [row.last_ns for row in self._rows]
        moments += [event.boot_ns for event in (*self._verdicts, *self._losses)]
        if self._target.ending.at_ns is not None and not self._target.chosen:
            moments.append(self._target.ending.at_ns)
        return max(self._base + 1, max(moments, default=0))


def _key(place: Place | None) -> str:
    return (place.identity.container_id or place.identity.pod_uid or "") if place else ""


def _subject(place: Place | None) -> str:
    parts = pod_name(place), container_name(place)
    return " ".join(part for part in parts if part) or UNKNOWN


def _said(body: dict[str, Any]) -> Iterator[str]:
    """What Kubernetes says of the pod, in lines."""
    told = body.get("kubernetes") or {}
    for event in (told.get("events") or [])[-12:]:
        again = f" ({event['count']} times)" if event["count"] > 1 else ""
        yield f"{event['last']} {event['reason']}{again}: {event['message']}"


def _offset(nanoseconds: int) -> str:
    if not nanoseconds:
        return "0"
    return f"{'-' if nanoseconds < 0 else '+'}{span(abs(nanoseconds))}"


def _listed(value: Any) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(
            "=".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value
        )
    return str(value)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _in_script(data: bytes) -> str:
    """JSON in which nothing ends a script or begins a comment, and nothing is invisible."""
    text = data.decode()
    odd = {ord(sign): _code(sign) for sign in set(text) if not _is_plain(sign)}
    return text.translate(odd)


def _is_plain(sign: str) -> bool:
    return sign.isprintable() and sign not in "<>&"


def _code(sign: str) -> str:
    raw = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[n]:02x}{raw[n + 1]:02x}" for n in range(0, len(raw), 2))
