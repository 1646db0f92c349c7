# SPDX-License-Identifier: Apache-2.0
"""Probes: each package here is one question to the kernel, and describes itself with `PROBE`.

A package's name is the command's name. Nothing else lists the probes: a new one is found because
its folder is here. The modules beside them are what probes have in common.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from tracer.identity.resolver import Resolver
    from tracer.model.event import Event
    from tracer.model.schema import Schema
    from tracer.model.selection import Selection
    from tracer.probes.columns import Column


T = TypeVar("T")

# Turns a raw record into an event, or keeps it for a later one.
Decode = Callable[[Any], "Event | None"]


class Stream:
    """One stream of records, as a session has it. `resolver` knows what they refer to."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._shared: dict[Callable[[Resolver], Any], Any] = {}

    def shared(self, make: Callable[[Resolver], T]) -> T:
        """What is told once for all probes that want to know: the same object for each."""
        if make not in self._shared:
            self._shared[make] = make(self.resolver)
        found: T = self._shared[make]
        return found


# What a companion is called with after tracing has ended: the name of no event.
LAST_CALL = frozenset(("",))


class Table(Protocol):
    """A BPF map of the probe's own object, for its companion."""

    def items(self) -> Iterator[tuple[bytes, bytes]]: ...

    def delete(self, key: bytes) -> None: ...


class Companion(Protocol):
    """What has to be fetched in user space to complete a probe: a log, a counter, a file in /proc.
    It speaks in raw records of the probe's own structs, so that they are recorded and replayed like
    any other. `interval` is how often it wants to be asked, in seconds; None: only with events."""

    interval: float | None

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        """Called after the ring was read, with the names of the events found in it; the records are
        delivered before those. Also called every `interval`, and with `LAST_CALL` when tracing has
        ended: what is still untold is told then. Must not block nor raise."""

    def close(self) -> None: ...


@runtime_checkable
class Listening(Protocol):
    """A companion that is given the records of the kind `hears`, as they come. Must not block."""

    hears: str

    def hear(self, records: Iterator[Any]) -> None: ...


@dataclass(frozen=True)
class AttachPoint:
    """One way to hook: the programs of the object that belong together, and what cannot be told
    this way; `lacks` looks what else cannot be told on this node. With no programs at all the
    companion is the only source: it is made from the schemas by event name and from what gives the
    object's maps by theirs.

    The kernel runs no program in an interrupt that comes while the same one is running. Such a run
    counts as a lost event, except of the programs in `nested`: theirs tell next to never anything,
    and the words say what they would have looked at; no words, that they cannot tell anything."""

    name: str
    programs: tuple[str, ...]
    cannot_tell: tuple[str, ...] = ()
    companion: Callable[[Mapping[str, Schema], Callable[[str], Table]], Companion] | None = None
    lacks: Callable[[], tuple[str, ...]] = field(default=lambda: ())
    nested: Mapping[str, str] = field(default_factory=dict)

    def here(self) -> AttachPoint:
        """With all that cannot be told on this node."""
        return replace(self, cannot_tell=(*self.cannot_tell, *self.lacks()))


class Alike(NamedTuple):
    """Where an event stands among the others of its container: events of one `group` share a bound,
    those that are `alike` besides are told as one, and `times` is how many this one stands for."""

    group: Hashable
    alike: Hashable
    times: int = 1


def by_process(event: Event) -> Alike:
    return Alike(event.kind, event.about.pid if event.about else 0)


@dataclass(frozen=True)
class Options:
    """What somebody may ask of a probe besides. One that can be asked something has a subclass with
    a field for each thing, made by `option`."""

    def settings(self, selection: Selection) -> dict[str, int]:
        """Values for the object's `const volatile` variables. Raises `UsageError`."""
        return {}


@dataclass(frozen=True, slots=True)
class Asked:
    """How an option is asked for: `help` says what it does, `metavar` what it takes."""

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
class Probe:
    """`object` is the BPF object in `probes/` (without `.bpf.c`); `attach_points` are in order of
    preference; `decoder` makes, for one stream, what decodes the records of each name; `bodies` are
    the types of the events' bodies by kind, whose keys docs/events.md explains; `whose` names the
    member of each kind's record that says whom it concerns, a process or a cgroup by its type;
    `state` the records that any later one may need, with the members that tell of what they are:
    the last of each stays true until the next; `summary` says an event in one sentence for streams
    of several probes; `alarm` tells whether it must stand out; `grouping` which of a container's
    events are alike; `options` is what may be asked of it; `shorthand` turns what follows `KIND:`
    in a condition into one of tracer.model.expression; `besides` are objects of which all programs
    are attached too, once for all probes that name them."""

    name: str
    object: str
    help: str
    examples: tuple[str, ...]
    attach_points: tuple[AttachPoint, ...]
    decoder: Callable[[Stream], Mapping[str, Decode]]
    bodies: Mapping[str, type]
    whose: Mapping[str, str]
    columns: tuple[Column, ...]
    summary: Callable[[Event], str]
    alarm: Callable[[Event], bool]
    state: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grouping: Callable[[Event], Alike] = by_process
    options: type[Options] = Options
    shorthand: Callable[[str], str] = field(default=lambda words: words)
    besides: tuple[str, ...] = ()


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def get(name: str) -> Probe:
    probe = importlib.import_module(f"{__name__}.{name}").PROBE
    assert isinstance(probe, Probe)
    return probe
