# SPDX-License-Identifier: Apache-2.0
"""Probes: each package here is one question to the kernel, and describes itself with `PROBE`.

A package's name is the command's name. Nothing else lists the probes: a new one is found by its
folder. The modules beside the packages are shared by probes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from tracer.model.event import C, Event

if TYPE_CHECKING:
    from tracer.identity.resolver import Resolver
    from tracer.model.schema import Schema
    from tracer.model.selection import Selection
    from tracer.probes.columns import Column


T = TypeVar("T")

# Turns a raw record into an event, or keeps the record for a later event.
Decode = Callable[[Any], "Event | None"]
# Its errors for a damaged or made-up record.
DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Stream:
    """A session's stream of records. `resolver` resolves the numbers in them."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._shared: dict[Callable[[Resolver], Any], Any] = {}

    def shared(self, make: Callable[[Resolver], T]) -> T:
        """An object that all probes of the stream share; the first caller makes it."""
        if make not in self._shared:
            self._shared[make] = make(self.resolver)
        found: T = self._shared[make]
        return found


# The argument of a companion's last call, after tracing has ended. It is the name of no event.
LAST_CALL = frozenset(("",))


class Table(Protocol):
    """A BPF map of the probe's own object, for its companion."""

    def items(self) -> Iterator[tuple[bytes, bytes]]: ...

    def delete(self, key: bytes) -> None: ...


class Companion(Protocol):
    """Fetches in user space what a probe lacks: a log, a counter, a file in /proc. It returns raw
    records of the probe's own structs, so they are recorded and replayed like any other. `interval`
    is the time between calls in seconds; None: called only with events."""

    interval: float | None

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        """Called after each read of the ring, with the names of the events in it; the returned
        records are delivered before those. Also called every `interval`, and with `LAST_CALL` after
        tracing has ended, to return all that is left. Must not block or raise."""

    def close(self) -> None: ...


@runtime_checkable
class Listening(Protocol):
    """A companion that also gets the records of the kind `hears`. `hear` must not block."""

    hears: str

    def hear(self, records: Iterator[Any]) -> None: ...


@runtime_checkable
class Waking(Protocol):
    """A companion with a thread of its own. It calls `wake` when that thread has found records."""

    def wake_with(self, wake: Callable[[], None]) -> None: ...


@runtime_checkable
class Arming(Protocol):
    """A companion that decides when the `armed` programs of its attach point run. `arm(names)`
    attaches those, and detaches the others; only in `records`. True says that they are as asked:
    the kernel may refuse."""

    def arm_with(self, arm: Callable[[Collection[str]], bool]) -> None: ...


@dataclass(frozen=True)
class AttachPoint:
    """One way to hook: a set of the object's programs. `cannot_tell` lists the facts that this way
    cannot report; `lacks` returns further ones on this node. Without programs the companion is the
    only source. `companion` is called with the schemas by event name and a function that returns
    the object's maps by name.

    If an interrupt comes while a program is running, the kernel does not run the same program in
    it. Such a miss counts as a lost event, except for programs in `nested`, whose nested runs
    almost never report anything. The value says what the missed run would have looked at; empty if
    it can never report anything.

    `armed` programs cost too much to run always. They are loaded, and attached only while the
    companion asks for them (`Arming`). A backend that cannot do so leaves the attach point out.

    `optional` programs, armed or not, are left out where the kernel lacks what they attach to. The
    value says what cannot be told without it; empty if another one of them tells it."""

    name: str
    programs: tuple[str, ...]
    cannot_tell: tuple[str, ...] = ()
    companion: Callable[[Mapping[str, Schema], Callable[[str], Table]], Companion] | None = None
    lacks: Callable[[], tuple[str, ...]] = field(default=lambda: ())
    nested: Mapping[str, str] = field(default_factory=dict)
    armed: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)

    def here(self) -> AttachPoint:
        """A copy whose `cannot_tell` is complete for this node."""
        return replace(self, cannot_tell=(*self.cannot_tell, *self.lacks()))

    def without(self, programs: Collection[str]) -> AttachPoint:
        """A copy without these optional programs."""
        if not programs:
            return self
        untold = (words for name, words in self.optional.items() if name in programs and words)
        return replace(
            self,
            programs=tuple(name for name in self.programs if name not in programs),
            armed=tuple(name for name in self.armed if name not in programs),
            cannot_tell=(*self.cannot_tell, *untold),
        )


class Alike(NamedTuple):
    """How an event is grouped among the others of its container. Events of one `group` share a
    bound. Events that are also `alike` are reported as one. `times` is the number of occurrences
    that the event stands for. With `fold`, events beyond the bound share one occurrence's place,
    where it is counted how many would have had one of their own."""

    group: Hashable
    alike: Hashable
    times: int = 1
    fold: bool = False


@dataclass(frozen=True)
class Metric(Generic[C]):
    """How the agent counts a probe's events. `name` is a plural such as `oom_kills`. `labels` are
    by name; a value is one of a few, or None if it is not known. `times` is the number of
    occurrences that the event stands for."""

    name: str
    help: str
    labels: Mapping[str, Callable[[Event[C]], str | None]]
    times: Callable[[Event[C]], int] = field(default=lambda event: 1)


def by_process(event: Event) -> Alike:
    return Alike(event.kind, event.about.pid if event.about else 0)


@dataclass(frozen=True)
class Options:
    """A probe's own options. A probe that has any defines a subclass with a field for each, made by
    `option`."""

    def settings(self, selection: Selection) -> dict[str, int]:
        """Values for the object's `const volatile` variables. Raises `UsageError`."""
        return {}


@dataclass(frozen=True, slots=True)
class Asked:
    """An option's description: `help` says what it does, `metavar` what it takes."""

    name: str
    help: str
    metavar: str | None
    default: Any

    @property
    def word(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_flag(self) -> bool:
        return self.default is False


def option(default: Any, help: str, metavar: str | None = None) -> Any:
    """A field of an `Options`. Its name is the option's; a false default makes it a flag."""
    return field(default=default, metadata={"help": help, "metavar": metavar})


def asked(options: type[Options]) -> list[Asked]:
    return [
        Asked(f.name, f.metadata["help"], f.metadata["metavar"], f.default) for f in fields(options)
    ]


@dataclass(frozen=True)
class Probe(Generic[C]):
    """The description of a probe, whose type says what its events' bodies hold.

    `object` is the BPF object in `probes/` (without `.bpf.c`). `attach_points` are in order of
    preference. `decoder` makes the decoders of one stream, by record name. `bodies` are the types
    of the events' bodies by kind; docs/events.md explains their keys. `whose` names the member of
    each kind's record that holds the event's owner; its type says whether that is a process or a
    cgroup. `state` names the records that any later record may need, with the members that form
    their key: the last record of each key is valid until the next. `repeating` names the records
    of which many may be alike: their events depend only on the time, on the members behind it, and
    on what the resolver knows of the processes `about` and `by`. `summary` is one sentence about
    an event, for streams of several probes. `alarm` tells whether an event must stand out.
    `grouping` tells which events of a container are alike. `options` is the class of the probe's
    options. `shorthand` turns the words after `KIND:` in a condition into an expression of
    tracer.model.expression. `besides` are further objects, of which all programs are attached, once
    for all probes that name them. `metric` says how the agent counts the events."""

    name: str
    object: str
    help: str
    examples: tuple[str, ...]
    attach_points: tuple[AttachPoint, ...]
    decoder: Callable[[Stream], Mapping[str, Decode]]
    bodies: Mapping[str, type]
    whose: Mapping[str, str]
    columns: tuple[Column[C], ...]
    summary: Callable[[Event[C]], str]
    alarm: Callable[[Event[C]], bool]
    state: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repeating: frozenset[str] = frozenset()
    grouping: Callable[[Event[C]], Alike] = by_process
    options: type[Options] = Options
    shorthand: Callable[[str], str] = field(default=lambda words: words)
    besides: tuple[str, ...] = ()
    metric: Metric[C] | None = None


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def get(name: str) -> Probe:
    probe = importlib.import_module(f"{__name__}.{name}").PROBE
    assert isinstance(probe, Probe)
    return probe
