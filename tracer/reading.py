# SPDX-License-Identifier: Apache-2.0
"""A recording in Python: what `tracer.read` returns. docs/python.md describes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from tracer import probes
from tracer.model import event as model
from tracer.model.errors import BadRecording, KtraceError
from tracer.model.event import Clock, to_json
from tracer.model.kubernetes import Facts
from tracer.model.names import Container, Pod
from tracer.model.selection import Selection, parse_labels
from tracer.outputs import exporters
from tracer.outputs.exporters import Target
from tracer.probes import DAMAGE
from tracer.recording.overview import overview
from tracer.recording.reader import Reader
from tracer.recording.replay import ReplaySource
from tracer.recording.view import Chosen, window
from tracer.session.session import Session
from tracer.why.explained import Explained

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Event(Mapping[str, Any]):
    """An event by its JSON keys, which docs/events.md describes: `event["signal"]["name"]`. The
    attributes are what events of every kind have."""

    __slots__ = ("_event", "_keys", "_line", "_target")

    def __init__(self, event: model.Event, target: Target) -> None:
        self._event = event
        self._target = target
        self._line = to_json(event, target.clock, target.node)
        self._keys: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        return self._event.kind

    @property
    def boot_ns(self) -> int:
        """Nanoseconds since the node's boot."""
        return self._event.boot_ns

    @property
    def time(self) -> datetime:
        """In UTC, to the microsecond; `event["time"]` has the nanoseconds."""
        return _utc(self._event.boot_ns, self._target.clock)

    @property
    def node(self) -> str | None:
        return self._target.node or None

    @property
    def pod(self) -> Pod | None:
        """The pod that the event happened to."""
        place = self._event.place
        return place.pod if place else None

    @property
    def container(self) -> Container | None:
        place = self._event.place
        return place.container if place else None

    @property
    def text(self) -> str:
        """The event in one sentence. It holds names that containers chose."""
        try:
            return self._target.sentence(self._event)
        except DAMAGE as error:
            raise BadRecording(f"a {self.kind} event makes no sense: {error}") from error

    @property
    def alarm(self) -> bool:
        """Whether the event stands out in `ktrace live`."""
        try:
            return self._target.alarm(self._event)
        except DAMAGE as error:
            raise BadRecording(f"a {self.kind} event makes no sense: {error}") from error

    def json(self) -> str:
        """The line that `ktrace replay -o json` prints, without its end."""
        return self._line.decode().rstrip("\n")

    def __getitem__(self, key: str) -> Any:
        return self._told()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told())

    def __len__(self) -> int:
        return len(self._told())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} at {self['time']}>"

    def _told(self) -> dict[str, Any]:
        if self._keys is None:
            self._keys = orjson.loads(self._line)
        return self._keys


class Verdict(Event):
    """What `ktrace why` says of a container that ended or was hurt."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """Stable, for programs: docs/verdicts.md lists them."""
        return str(self["verdict"])

    @property
    def headline(self) -> str:
        return str(self["headline"])

    @property
    def sentence(self) -> str:
        return str(self["sentence"])

    @property
    def certainty(self) -> str:
        """`certain`, `likely` or `unknown`."""
        return str(self["certainty"])

    @property
    def remedy(self) -> str:
        return str(self["remedy"])


@dataclass(frozen=True, slots=True)
class Loss:
    """Events of a probe that were lost between two moments."""

    probe: str
    count: int
    since: datetime
    until: datetime


class Recording:
    """The wanted part of a recording. Iterating reads the file once from its beginning to its end,
    in the memory of one of its blocks; it can be done again. What is behind damage, or was cut off,
    cannot be read: then there is a warning, and `damage` says what is wrong."""

    def __init__(
        self,
        path: str | PathLike[str],
        selection: Selection,
        begin: str | datetime | None = None,
        end: str | datetime | None = None,
    ) -> None:
        self._path = Path(fspath(path))
        self._selection = selection
        self._damage: str | None = None
        with Reader(self._path) as reader:
            self._metadata = told = reader.metadata
        self._clock = Clock(told.clock_offset_ns)
        self._window = window(_text(begin), _text(end), told, ("begin", "end"))

    @property
    def path(self) -> Path:
        return self._path

    @property
    def node(self) -> str | None:
        return self._metadata.node or None

    @property
    def kernel(self) -> str:
        return self._metadata.kernel

    @property
    def machine(self) -> str:
        return self._metadata.machine

    @property
    def ktrace(self) -> str:
        """The version that recorded it."""
        return self._metadata.ktrace

    @property
    def began(self) -> datetime:
        return _utc(self._metadata.began, self._clock)

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that were attached."""
        return tuple(self._metadata.attached)

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods of the recording, selected or not, by name."""
        with Reader(self._path) as reader:
            seen = overview(reader)
            self._check(reader)
        unnamed = {uid: Pod(uid) for _, uid in seen.counts if uid}
        return tuple(sorted((unnamed | seen.names.pods).values(), key=lambda pod: pod.title))

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Events that found no room, selected or not."""
        probe_of = {kind: one.name for one in _probes(self.probes) for kind in one.whose}
        with Reader(self._path) as reader:
            found = [
                Loss(probe_of[name], count, self._utc(turn.lost.since), self._utc(turn.now))
                for turn in reader.turns()
                if turn.lost
                for name, count in turn.lost.counts.items()
                if name in probe_of
            ]
            self._check(reader)
        return tuple(found)

    @property
    def damage(self) -> str | None:
        """What is wrong with the file, as far as it has been read; None if nothing."""
        return self._damage

    def __iter__(self) -> Iterator[Event]:
        """The events in order of time, `lost` ones included."""
        return self._walk(Event)

    def verdicts(self) -> list[Verdict]:
        """What `ktrace why` says of each container that ended or was hurt. They rest on the whole
        recording; the selectors choose which of them are wanted."""

        def make(event: model.Event, target: Target) -> Verdict | None:
            return Verdict(event, target) if event.kind == "verdict" else None

        return [verdict for verdict in self._walk(make, explain=True) if verdict]

    def to_arrow(self) -> pyarrow.Table:
        """Events and verdicts as a table, with the columns of `ktrace export -f parquet`. Needs
        pyarrow: `pip install ktrace[parquet]`."""
        exporter = exporters.get("parquet")
        exporter.require()
        import pyarrow.parquet

        out = BytesIO()
        sink = exporter.make(self._target(out))
        for _ in self._walk(lambda event, _: sink.event(event), explain=True):
            pass
        sink.close()
        return pyarrow.parquet.read_table(BytesIO(out.getvalue()))

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a data frame. Needs pandas, too: `pip install ktrace[pandas]`."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise KtraceError(
                f"a data frame needs a library that is not there: {error}",
                "python3 -m pip install 'ktrace[pandas]'",
            ) from error
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        return f"<Recording {str(self._path)!r} of {self.node or 'a node'}, {self.began:%F %T} UTC>"

    def _walk(
        self, make: Callable[[model.Event, Target], T], *, explain: bool = False
    ) -> Iterator[T]:
        """What `make` makes of the wanted events, and with `explain` of the verdicts behind them.
        An event that it refuses is left out, as in a replay."""
        told, facts, made = self._metadata, Facts(), _Made(make, self._target(BytesIO()))
        with Reader(self._path) as reader:
            source = ReplaySource(reader)
            chosen = Chosen(made, self._selection, self._window, None, source.interrupt)
            explained = Explained(chosen, told, self._clock, facts) if explain else None
            session = Session(
                *(source, _probes(self.probes), told.selection, explained or chosen),
                *(self._clock, told.count, facts),
            )
            last = False
            while not last:
                last = session.take(source.turn(session.waiting, 0))
                yield from made.taken()
            if explained:
                explained.explain()
                yield from made.taken()
            self._check(reader)

    def _target(self, out: BytesIO) -> Target:
        kinds = {kind: probe for probe in _probes(self.probes) for kind in probe.whose}
        return Target(out, self._clock, self._metadata.node, kinds, list)

    def _check(self, reader: Reader) -> None:
        """Warns of damage once."""
        damage = reader.damage or ("it is cut" if reader.cut else None)
        if damage and self._damage is None:
            left = f"{reader.size - reader.used} of {reader.size} bytes could not be used"
            self._damage = f"{damage} at byte {reader.used}; {left}"
            warnings.warn(f"{self._path}: {self._damage}", stacklevel=3)

    def _utc(self, boot_ns: int) -> datetime:
        return _utc(boot_ns, self._clock)


class _Made(Generic[T]):
    """A sink for what is made of the events of one turn."""

    def __init__(self, make: Callable[[model.Event, Target], T], target: Target) -> None:
        self._make = make
        self._target = target
        self._made: list[T] = []

    def event(self, event: model.Event) -> None:
        self._made.append(self._make(event, self._target))

    def flush(self) -> None: ...

    def taken(self) -> list[T]:
        made, self._made = self._made, []
        return made


def wanted(
    pod: str | Iterable[str],
    namespace: str | Iterable[str],
    container: str | Iterable[str],
    selector: str | Iterable[str],
    sender_pod: str | Iterable[str],
    pid: int | Iterable[int],
) -> Selection:
    """Everything if nothing is chosen."""
    texts = [_several(one) for one in (pod, namespace, container, sender_pod)]
    labels = parse_labels(_several(selector))
    pids = frozenset((pid,) if isinstance(pid, int) else pid)
    pods, namespaces, containers, senders = texts
    return Selection(
        pods=pods,
        namespaces=namespaces,
        containers=containers,
        labels=labels,
        sender_pods=senders,
        pids=pids,
        everything=not (any(texts) or labels or pids),
    )


def _several(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _text(when: str | datetime | None) -> str | None:
    """A datetime without a zone is local, as everywhere in Python."""
    if not isinstance(when, datetime):
        return when
    return f"{when.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}Z"


def _probes(attached: Iterable[str]) -> list[probes.Probe]:
    return [probes.get(name) for name in probes.names() if name in attached]


def _utc(boot_ns: int, clock: Clock) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=(boot_ns + clock.offset_ns) // 1000)
    except OverflowError as error:
        raise BadRecording(f"{boot_ns} ns after the boot is no time") from error
