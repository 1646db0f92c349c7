# SPDX-License-Identifier: Apache-2.0
"""Asks the sources of names in the background and merges their answers.

Tracing never waits for a name. Each source has a thread of its own, so no source waits for another.
Answers are merged field by field; the most authoritative source that knows a value wins.

A source that fails rests for a while, longer each time. Its last good answer stays in use, so the
restart of a runtime does not make its pods nameless.
"""

import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tracer.identity import cri
from tracer.identity.cri import CriSource
from tracer.identity.logs import LogDirectorySource
from tracer.model.names import Container, Names, NameSource, NameSourceError, Pod

# Where pods usually mount the root of the host's file system.
HOST = "/host"
LOGS = "/var/log/pods"
PODMAN_STORAGE = "/var/lib/containers/storage"  # of root, containers-storage.conf(5)


class Arrivals(queue.Queue[Names]):
    """Answers that the session has not taken yet, together as one. A session that is slower than
    the sources finds each name once, with its latest value."""

    def _init(self, maxsize: int) -> None:
        self._waiting: Names | None = None

    def _qsize(self) -> int:
        return self._waiting is not None

    def _put(self, item: Names) -> None:
        before = self._waiting or Names()
        self._waiting = Names(before.pods | item.pods, before.containers | item.containers)

    def _get(self) -> Names:
        assert self._waiting is not None
        taken, self._waiting = self._waiting, None
        return taken


class NameService:
    """Calls `on_names` with the merged names whenever a source has answered, in the service's own
    thread. `sources` are ordered by authority, the highest first.

    A request for fresh names is a ticket, counted from 1. A question to a source serves all tickets
    given out before it. `generation` is the last settled ticket: each source has served it and
    on_names has got the answers, or the source cannot answer.
    """

    def __init__(
        self,
        sources: Sequence[NameSource],
        on_names: Callable[[Names], None],
        *,
        spacing: float = 0.1,
        patience: float = 5.0,
        first_retry: float = 0.5,
        last_retry: float = 15.0,
    ) -> None:
        """Times are in seconds.

        Two questions to a source are at least `spacing` apart. A source that is silent for longer
        than `patience` counts as failed until it answers. A failed source is asked again after
        `first_retry`, then after twice as long each time, at most `last_retry`.
        """
        self.generation = 0
        self._on_names = on_names
        self._spacing = spacing
        self._patience = patience
        self._first_retry = first_retry
        self._last_retry = last_retry
        # Guards everything below. It is never held while a source is asked or on_names is called.
        self._changed = threading.Condition()
        self._sources = [_State(source) for source in sources]
        self._wanted = 0
        self._stopping = False
        self._callback_failure: str | None = None
        self._threads = [
            threading.Thread(target=self._publish, name="names", daemon=True),
            *(
                threading.Thread(
                    target=self._ask, args=(state,), name=f"names {state.source.name}", daemon=True
                )
                for state in self._sources
            ),
        ]

    def start(self) -> None:
        """Starts the threads and asks every source once."""
        self.refresh()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads and closes the sources. Does not wait for a source that hangs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for state in self._sources:
            try:
                state.source.close()
            except Exception as error:
                state.failure = _described(error)
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def refresh(self) -> int:
        """Requests names that are fresher than this call; returns the ticket. Never waits."""
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()
            return self._wanted

    def done(self, ticket: int) -> bool:
        """Whether each source that can answer was asked after refresh() gave out this ticket, and
        on_names has got the answers. Always true after stop().
        """
        with self._changed:
            return self._is_done(ticket)

    def wait(self, ticket: int, timeout: float | None = None) -> bool:
        """Waits until done(ticket), at most `timeout` seconds. Returns whether the ticket is
        done."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_done(ticket), timeout)

    @property
    def failures(self) -> dict[str, str]:
        """The reasons of the sources that cannot answer now, by the source's name."""
        with self._changed:
            failures = {
                state.source.name: state.failure
                for state in self._sources
                if state.failure is not None
            }
            if self._callback_failure is not None:
                failures["names"] = self._callback_failure
            return failures

    @property
    def awaited(self) -> list[str]:
        """The names of the sources that have been asked and have not answered yet."""
        with self._changed:
            return [state.source.name for state in self._awaited()]

    @property
    def pods(self) -> dict[str, int]:
        """The number of pods in each source's last answer, by the source's name."""
        with self._changed:
            return {state.source.name: len(state.answer.pods) for state in self._sources}

    def _is_done(self, ticket: int) -> bool:
        return self._stopping or self.generation >= ticket

    # The thread of one source.

    def _ask(self, state: "_State") -> None:
        while self._wait_until_due(state):
            answer: Names | None = None
            failure: str | None = None
            try:
                answer = state.source.snapshot()
            except Exception as error:
                failure = _described(error)
            with self._changed:
                if self._stopping:  # a failure may be that its connection was closed here
                    return
                self._take(state, answer, failure)
                self._changed.notify_all()

    def _wait_until_due(self, state: "_State") -> bool:
        """Sleeps until the source is due. False: the service ends."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due = self._due(state)
                if due <= now:
                    state.asked_at = now
                    state.serving = self._wanted
                    state.busy = True
                    # The other thread watches the time.
                    self._changed.notify_all()
                    return True
                self._changed.wait(None if due == _NEVER else due - now)
            return False

    def _due(self, state: "_State") -> float:
        if state.failure is not None:
            return state.retry_at
        if state.served < self._wanted:
            return state.asked_at + self._spacing
        return _NEVER

    def _take(self, state: "_State", answer: Names | None, failure: str | None) -> None:
        state.busy = False
        state.served = state.serving
        state.failure = failure
        if answer is not None:
            state.answer = answer
            state.fresh = True
            state.failed = 0
            return
        # A bounded exponent: on a node whose Docker stays dead, `failed` grows for weeks.
        rest = self._first_retry * 2 ** min(state.failed, 30)
        state.retry_at = time.monotonic() + min(rest, self._last_retry)
        state.failed += 1

    # The thread that calls on_names.

    def _publish(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._has_news() or self._give_up_overdue()):
                    self._changed.wait(self._until_overdue())
                if self._stopping:
                    return
                is_fresh = any(state.fresh for state in self._sources)
                for state in self._sources:
                    state.fresh = False
                answers = [state.answer for state in self._sources]
                settled = self._settled()
            if is_fresh:
                self._tell(merge(answers))
            with self._changed:
                # A source that recovers may have served fewer tickets than the others; tickets
                # settled without it stay settled.
                self.generation = max(self.generation, settled)
                self._changed.notify_all()

    def _has_news(self) -> bool:
        return self._settled() > self.generation or any(state.fresh for state in self._sources)

    def _settled(self) -> int:
        able = [state.served for state in self._sources if state.failure is None]
        return min(able, default=self._wanted)

    def _give_up_overdue(self) -> bool:
        """Counts sources that were asked too long ago as failed. Returns whether there are any."""
        oldest = time.monotonic() - self._patience
        overdue = [state for state in self._awaited() if state.asked_at <= oldest]
        for state in overdue:
            state.failure = f"no answer for {self._patience:g} s, still waiting"
        return bool(overdue)

    def _until_overdue(self) -> float | None:
        asked = [state.asked_at for state in self._awaited()]
        return max(0.0, min(asked) + self._patience - time.monotonic()) if asked else None

    def _awaited(self) -> list["_State"]:
        return [state for state in self._sources if state.busy and state.failure is None]

    def _tell(self, names: Names) -> None:
        failure = None
        try:
            self._on_names(names)
        except Exception as error:
            failure = _described(error)
        with self._changed:
            self._callback_failure = failure


_NEVER = float("inf")


@dataclass(slots=True)
class _State:
    """The service's state of one source."""

    source: NameSource
    answer: Names = field(default_factory=Names)
    fresh: bool = False  # on_names has not got the answer yet
    busy: bool = False  # being asked
    asked_at: float = -_NEVER
    serving: int = 0  # the last ticket when it was asked
    served: int = 0  # the same, set when it has answered or failed
    failure: str | None = None
    failed: int = 0  # times in a row
    retry_at: float = 0.0


def merge(answers: Iterable[Names]) -> Names:
    """The answers merged field by field; the first known value counts."""
    merged = Names()
    for names in answers:
        for uid, pod in names.pods.items():
            known = merged.pods.get(uid)
            merged.pods[uid] = pod if known is None else _merged_pod(known, pod)
        for container_id, container in names.containers.items():
            seen = merged.containers.get(container_id)
            merged.containers[container_id] = (
                container if seen is None else _merged_container(seen, container)
            )
    return merged


def default_sources(cri_socket: str | None = None) -> list[NameSource]:
    """The sources that this node has, most authoritative first.

    A node may have the sockets of several runtimes, one of them Docker's own containerd without
    CRI. So every existing socket is asked, unless the user names one.
    """
    sources: list[NameSource] = []
    if cri_socket is not None:
        if not _is_socket(cri_socket):
            raise NameSourceError(
                f"--cri-socket {cri_socket}: there is no such socket; leave the flag out to have "
                f"the usual places searched, such as {cri.DEFAULT_SOCKETS[0]}"
            )
        sources.append(CriSource(cri_socket))
    else:
        # Distributions link the usual paths to each other; take each socket once.
        present: dict[str, str] = {}
        for path in _first_with(_is_socket, cri.DEFAULT_SOCKETS):
            present.setdefault(os.path.realpath(path), path)
        sources += map(CriSource, present.values())
    logs = _first_with(os.path.isdir, [LOGS]) or [LOGS]
    sources.append(LogDirectorySource(logs[0].removesuffix(LOGS)))
    sources += _without_kubernetes()
    return sources


def _first_with(is_there: Callable[[str], bool], paths: Sequence[str]) -> list[str]:
    """The paths that exist; in a pod without them, those below the host's root."""
    return [*filter(is_there, paths)] or [*filter(is_there, (f"{HOST}{path}" for path in paths))]


def _without_kubernetes() -> list[NameSource]:
    """Podman comes before Docker: one socket may serve both APIs, and podman's own tells more."""
    sources: list[NameSource] = []
    podman = _socket_of("CONTAINER_HOST", "/run/podman/podman.sock")
    docker = _socket_of("DOCKER_HOST", "/var/run/docker.sock")
    if podman or docker:
        from tracer.identity.docker import DockerSource  # takes long: http.client, email, ssl
        from tracer.identity.podman import PodmanSource

        if podman:
            sources.append(PodmanSource(podman))
        if docker and not (podman and os.path.realpath(docker) == os.path.realpath(podman)):
            sources.append(DockerSource(docker))
    if os.path.isdir(PODMAN_STORAGE):
        from tracer.identity.podman import PodmanFiles

        sources.append(PodmanFiles(Path(PODMAN_STORAGE)))
    return sources


def _socket_of(variable: str, usual: str) -> str | None:
    """The socket that the commands of Docker or podman would use here, if there is one."""
    scheme, _, path = os.environ.get(variable, "").partition("://")
    found = path if scheme == "unix" else usual
    return found if _is_socket(found) else None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _described(error: Exception) -> str:
    """The error in words for `doctor`; an unforeseen one with its type."""
    if isinstance(error, NameSourceError):
        return str(error)
    return str(NameSourceError(f"{type(error).__name__}: {error}"))


def _merged_pod(first: Pod, second: Pod) -> Pod:
    return Pod(
        first.uid,
        _first(first.namespace, second.namespace),
        _first(first.name, second.name),
        _first(first.labels, second.labels),
    )


def _merged_container(first: Container, second: Container) -> Container:
    return Container(
        first.id,
        _first(first.runtime, second.runtime),
        _first(first.name, second.name),
        _first(first.pod_uid, second.pod_uid),
        _first(first.init_pid, second.init_pid),
    )


_T = TypeVar("_T")


def _first(one: _T | None, other: _T | None) -> _T | None:
    return other if one is None else one
