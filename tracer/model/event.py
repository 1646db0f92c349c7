# SPDX-License-Identifier: Apache-2.0
"""The input of sinks: events, and the processes and pods they are about.

`docs/events.md` is the reference of the JSON that comes out of `to_json`. Pods and names may become
known after an event was made; an event always answers with the names known by then.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypedDict, TypeGuard

import orjson

from tracer.model.bounded import size_of
from tracer.model.cgroup import CgroupIdentity
from tracer.model.names import Container, Pod

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # A kind's body, as its probe declares it. Where the kind is not known, its values are objects.
    B = TypeVar("B", bound=Mapping[str, object], covariant=True, default=Mapping[str, object])
    # The bodies that a function of events can take.
    C = TypeVar("C", bound=Mapping[str, object], contravariant=True, default=Any)
else:
    from typing import TypeVar

    B, C = TypeVar("B"), TypeVar("C")

# Bounds of the JSON cached for processes and places, owners included: while tracing, and while a
# recording is written in another format.
MAX_JSON, MAX_RECORDED_JSON = 4 << 20, 16 << 20
# Former settings of the wall clock that are remembered.
MAX_OFFSETS = 64


@dataclass(slots=True)
class Place:
    """The cgroup of a process, with its pod and container. `began` is when the cgroup was first
    described (when it was made or found), `ended` when it was removed. Both are in nanoseconds
    since boot, None while not known. `renames` counts the changes of all places' names: while it
    stays the same, so does the JSON of an event."""

    renames: ClassVar[int] = 0

    cgroup: int
    path: str | None
    identity: CgroupIdentity
    pod: Pod | None = None
    container: Container | None = None
    began: int | None = None
    ended: int | None = None
    version: int = 0
    _json: tuple[int, Any, Any] | None = None

    def rename(self, pod: Pod | None, container: Container | None) -> None:
        if (pod, container) != (self.pod, self.container):
            self.pod, self.container = pod, container
            self.version += 1
            Place.renames += 1

    def json(self) -> tuple[Any, Any]:
        """The pod's and the container's JSON, each serialised once."""
        if self._json is None or self._json[0] != self.version:
            pod = self.pod and {
                "namespace": self.pod.namespace,
                "name": self.pod.name,
                "uid": self.pod.uid,
                "labels": None if self.pod.labels is None else dict(self.pod.labels),
            }
            container = self.container and {
                "name": self.container.name,
                "id": self.container.id,
                "runtime": self.container.runtime,
            }
            raw = [None if value is None else _dumped(value) for value in (pod, container)]
            told = [None if one is None else orjson.Fragment(one) for one in raw]
            self._json = self.version, told[0], told[1]
            _kept.add(self, sum(len(one) for one in raw if one))
            return told[0], told[1]
        return self._json[1:]


@dataclass(slots=True)
class Process:
    """A task at the moment of an event. `tid` differs from `pid` when a thread took part. If the
    kernel's description was lost, only these two numbers are known. `ancestors` are rows of
    `ancestor`, a `struct kt_ancestor`, the parent first. `reference` is the number by which events
    refer to it, 0 if they do not."""

    pid: int
    tid: int
    comm: str | None = None
    exe: str | None = None
    argv: list[str] | None = None
    uid: int | None = None
    pid_in_pod: int | None = None
    pid_level: int | None = None
    start_boot_ns: int | None = None
    place: Place | None = None
    init_place: Place | None = None
    ancestors: bytes = b""
    ancestor: struct.Struct | None = field(default=None, repr=False, compare=False)
    kernel_thread: bool = False
    reference: int = field(default=0, compare=False)
    _json: tuple[int, Any] | None = field(default=None, compare=False)
    _told: bool = field(default=False, compare=False)
    _size: int = field(default=0, compare=False)

    @property
    def ancestry(self) -> list[tuple[int, str]]:
        """Pid and comm, the parent first. Decoded on demand, because most are never read."""
        if self.ancestor is None:
            return []
        return [(pid, text(comm)) for pid, comm in self.ancestor.iter_unpack(self.ancestors)]

    @property
    def pod(self) -> Pod | None:
        return self.place.pod if self.place else None

    @property
    def container(self) -> Container | None:
        return self.place.container if self.place else None

    @property
    def size(self) -> int:
        """Approximate size in bytes, with its cgroup's path: the process may outlive the cgroup."""
        if not self._size:
            path = self.place.path if self.place else None
            self._size = 400 + size_of(self.exe, self.argv, self.ancestors, path)
        return self._size

    def json(self) -> Any:
        """Cached from the second call on. Most processes are serialised once, and two kilobytes for
        each would outweigh everything else about them."""
        version = self.place.version if self.place else 0
        if self._json is None or self._json[0] != version:
            pod, container = self.place.json() if self.place else (None, None)
            value = {
                "pid": self.pid,
                "tid": self.tid,
                "comm": self.comm,
                "exe": self.exe,
                "argv": self.argv,
                "uid": self.uid,
                "pid_in_pod": self.pid_in_pod,
                "start_boot_ns": self.start_boot_ns,
                "pod": pod,
                "container": container,
                "ancestry": None
                if self.comm is None
                else [{"pid": pid, "comm": comm} for pid, comm in self.ancestry],
            }
            raw = _dumped(value)
            fragment = orjson.Fragment(raw)
            if self._told:
                self._json = version, fragment
                _kept.add(self, len(raw))
            self._told = True
            return fragment
        return self._json[1]


class _Kept:
    """The owners of cached JSON. The oldest cache entry goes first."""

    # Bytes kept for an owner besides its JSON.
    OWNER_BYTES = 2048

    def __init__(self) -> None:
        self.bytes = 0
        self.most: int | None = None  # MAX_JSON
        self._owners: deque[tuple[Process | Place, int]] = deque()

    def add(self, owner: Process | Place, size: int) -> None:
        size += self.OWNER_BYTES
        self._owners.append((owner, size))
        self.bytes += size
        while self.bytes > (MAX_JSON if self.most is None else self.most):
            oldest, size = self._owners.popleft()
            oldest._json = None
            self.bytes -= size


_kept = _Kept()


def keep_json(most: int) -> None:
    """How many bytes of JSON are kept of processes and places from now on."""
    _kept.most = most


class LostBody(TypedDict):
    """The body of a `lost` event, which a session makes itself."""

    probe: str
    count: int
    since: str


@dataclass(slots=True)
class Event(Generic[B]):
    """One event.

    `about` is the process that it happened to, `by` the one on the other side. `place` and
    `by_place` are their places; they stand alone when no process is known, as when a packet meets a
    socket. `place` is the event's owner. `body` holds the keys of the kind, in the order of
    docs/events.md. `because` are the events on which a verdict rests. `doubts` list the facts that
    were inferred, not reported by the kernel; a verdict inherits the doubts of its events. `again`
    is set while something that the event refers to is not known yet: it makes the event anew, or
    returns None if there was no such event. `awaits_ns` is how long that may take. `body_bytes` is
    the size of the body if the probe knows it: all bodies of a kind that comes in storms have about
    one size."""

    kind: str
    boot_ns: int
    about: Process | None
    by: Process | None
    body: B
    place: Place | None = None
    by_place: Place | None = None
    because: tuple[Event, ...] = field(default=(), kw_only=True)
    doubts: tuple[str, ...] = field(default=(), kw_only=True)
    body_bytes: int = field(default=0, kw_only=True, repr=False, compare=False)
    awaits_ns: int = field(default=1_000_000_000, kw_only=True, repr=False, compare=False)
    again: Callable[[], Event | None] | None = field(
        default=None, kw_only=True, repr=False, compare=False
    )

    @property
    def size(self) -> int:
        """Approximate size in bytes, with its processes, which other events may share."""
        size = self.body_size + self.parties_size
        return size + sum(event.size for event in self.because) if self.because else size

    @property
    def body_size(self) -> int:
        return self.body_bytes or 200 + size_of(self.body)

    @property
    def parties_size(self) -> int:
        about, by = self.about, self.by
        return (about.size if about else 0) + (by.size if by else 0)

    def at(self, boot_ns: int) -> Event[B]:
        """The same event at another time."""
        if boot_ns == self.boot_ns:
            return self
        return Event(
            *(self.kind, boot_ns, self.about, self.by, self.body, self.place, self.by_place),
            because=self.because,
            doubts=self.doubts,
            body_bytes=self.body_bytes,
            awaits_ns=self.awaits_ns,
            again=self.again,
        )

    def __post_init__(self) -> None:
        if self.place is None and self.about is not None:
            self.place = self.about.place
        if self.by_place is None and self.by is not None:
            self.by_place = self.by.place


def is_loss(event: Event) -> TypeGuard[Event[LostBody]]:
    return event.kind == "lost"


class Clock:
    """Turns kernel time into UTC. The offset is taken once, so order and distances stay the
    kernel's even when the wall clock is set; `set` takes it again for what is still to come."""

    def __init__(self, offset_ns: int | None = None) -> None:
        if offset_ns is None:
            before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            now = time.time_ns()
            offset_ns = now - (before + time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 2
        self.offset_ns = offset_ns
        self._since = -1 << 63
        self._former: deque[tuple[int, int]] = deque(maxlen=MAX_OFFSETS)
        self._second = -1
        self._prefix = ""

    def now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def set(self, offset_ns: int) -> None:
        """From now on. A moment stays what it was, whenever it is told."""
        if offset_ns != self.offset_ns:
            self._since = self.now()
            self._former.append((self._since, self.offset_ns))
            self.offset_ns = offset_ns

    def utc_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970."""
        if boot_ns < self._since:
            for until, offset_ns in self._former:
                if boot_ns < until:
                    return boot_ns + offset_ns
        return boot_ns + self.offset_ns

    def iso(self, boot_ns: int) -> str:
        """RFC 3339 in UTC with nanoseconds."""
        second, nanoseconds = divmod(self.utc_ns(boot_ns), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{nanoseconds:09d}Z"


def to_json(event: Event, clock: Clock, node: str) -> bytes:
    """One line, with its newline. An empty `node` means unknown."""
    pod, container = event.place.json() if event.place else (None, None)
    value = {
        "kind": event.kind,
        "time": clock.iso(event.boot_ns),
        "boot_ns": event.boot_ns,
        "node": node or None,
        "pod": pod,
        "container": container,
        **event.body,
    }
    return orjson.dumps(value, _default, _OPTIONS)


def around_time(line: bytes) -> tuple[bytes, bytes]:
    """What `to_json` writes before an event's time and behind its `boot_ns`: all of the line that
    like events share. The kind before the time is a C name, so no value can look like the keys."""
    head = line.index(_BEFORE_TIME) + len(_BEFORE_TIME)
    return line[:head], line[line.index(_BEHIND_TIME, head) :]


_BEFORE_TIME, _BEHIND_TIME = b'"time":"', b',"node":'

# Dataclasses go through `_default`, which embeds cached JSON.
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS


def text(raw: bytes) -> str:
    """Bytes from the kernel as text. Invalid UTF-8 stays readable as `\\xNN`."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _dumped(value: Any) -> bytes:
    """A copy, because orjson allocates more memory than its result needs."""
    return bytes(memoryview(orjson.dumps(value)))


def _default(value: Any) -> Any:
    if isinstance(value, Process):
        return value.json()
    if isinstance(value, Place):  # a place in a body stands for its pod
        return value.json()[0]
    raise TypeError(type(value).__name__)
