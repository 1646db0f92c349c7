# SPDX-License-Identifier: Apache-2.0
"""Publishers: each module or package here takes verdicts to where people look, and describes itself
in `PUBLISHER`. Nothing else lists them.

A publisher is a `Sender` behind an `Outlet` (tracer.agent.outlet), which has the queue, the thread,
the retries and the counts. A sender only knows how to send.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from tracer.agent.item import Item, Severity

if TYPE_CHECKING:
    from tracer.agent.health import Health
    from tracer.model.event import Clock, Event

# A page of the agent's listener: its content type and its bytes. Called in the listener's thread.
Page = Callable[[], tuple[str, bytes]]
Unit = Literal["plain", "duration", "size"]


@dataclass(frozen=True)
class Means:
    """What a sender may use. `say` informs the user, in one line, from any thread. `node` is empty
    if the node's name is not known. `health` returns how the agent does."""

    node: str
    clock: Clock
    say: Callable[[str], None]
    health: Callable[[], Health]


class NotSent(Exception):
    """What could not be sent now may be sent later: the peer is away, slow or refuses for now.
    `rest` are the items that were not sent; None is all of them. `after` is the pause in seconds
    that the peer asked for. `remedy` is the line that mends it. `dropped` are items besides that
    will never be sent."""

    def __init__(
        self,
        reason: str,
        rest: Sequence[Item] | None = None,
        *,
        after: float | None = None,
        remedy: str | None = None,
        dropped: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rest = rest
        self.dropped = dropped
        self.after = after
        self.remedy = remedy


class Refused(Exception):
    """What could not be sent will never be: `dropped` items of the batch count as dropped, None is
    all of them; the others were sent."""

    def __init__(
        self, reason: str, dropped: int | None = None, *, remedy: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.dropped = dropped
        self.remedy = remedy


class Sender:
    """Sends items of these `kinds`, of events only those of at least the severity `least`. Its
    `send` is called in a thread of its own, with at most `batch` items."""

    kinds: frozenset[str] = frozenset(("verdict",))
    least: Severity = Severity.WARN
    batch: int = 100
    # Whether `observe` wants every event.
    observes: bool = False

    def send(self, items: Sequence[Item]) -> None:
        """May take long, but must have a time limit of its own. Raises `NotSent` or `Refused`."""
        raise NotImplementedError

    def takes(self, item: Item) -> bool:
        """Whether an item of these kinds is for this publisher at all."""
        return True

    def observe(self, event: Event) -> None:
        """Called with every event in the thread that traces, so it must take microseconds, and
        must keep nothing of the event."""

    def pages(self) -> Mapping[str, Page]:
        """Pages for the agent's listener, by path."""
        return {}

    def close(self) -> None:
        """Called once, after the last `send`."""


@dataclass(frozen=True)
class Options:
    """A publisher's options: a subclass with a field for each, made by `option`. The field `on` is
    the option by the publisher's own name (`--events`), and a publisher is on if it is true. The
    others carry the name in front: `per_pod` of `events` is `--events-per-pod`,
    `KTRACE_EVENTS_PER_POD` and `events-per-pod:` in the file."""


def option(default: Any, help: str, metavar: str | None = None, unit: Unit = "plain") -> Any:
    """A field of an `Options`. A default of False makes it a flag, of True a pair of flags
    (`--x/--no-x`), a tuple a repeatable option, a number a number. A `duration` is a float of
    seconds, a `size` an int of bytes."""
    return field(default=default, metadata={"help": help, "metavar": metavar, "unit": unit})


@dataclass(frozen=True, slots=True)
class Asked:
    """An option's description. `name` is the word without dashes, `field` that of the dataclass."""

    name: str
    field: str
    help: str
    metavar: str | None
    default: Any
    unit: Unit


def asked(name: str, options: type[Options]) -> list[Asked]:
    return [
        Asked(
            name=name if f.name == "on" else f"{name}_{f.name}",
            field=f.name,
            help=f.metadata["help"],
            metavar=f.metadata["metavar"],
            default=f.default,
            unit=f.metadata["unit"],
        )
        for f in fields(options)
    ]


@dataclass(frozen=True)
class Needs:
    """What a publisher needs besides its options where it runs in a pod: deploy/kubernetes makes
    the manifests of it. `rights` are verbs at the API server, by resource. `capabilities` are by
    the field of the option that needs them. `secrets` are the environment variables that a secret
    may hold, by the secret's key."""

    rights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    capabilities: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Publisher:
    """`options` is the class of its options, an object of which `make`, `require` and `plan` get.
    `require` raises `KtraceError` if something is not installed or an option makes no sense.
    `plan` says in a few lines what would go where, for `ktrace agent --check`. `serves` is whether
    it has pages, and so needs the listener."""

    help: str
    options: type[Options]
    make: Callable[[Any, Means], Sender]
    plan: Callable[[Any], Sequence[str]]
    require: Callable[[Any], object] = lambda options: None
    serves: bool = False
    needs: Needs = Needs()


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Publisher:
    publisher = importlib.import_module(f"{__name__}.{name}").PUBLISHER
    assert isinstance(publisher, Publisher)
    return publisher
