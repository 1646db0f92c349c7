# SPDX-License-Identifier: Apache-2.0
"""Pods in which nothing runs: stories and notes from the pods' states."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tracer.decode.signals import SIGRTMAX, signal_name
from tracer.identity.states import PodState, States, StateService
from tracer.model.cgroup import CgroupIdentity
from tracer.model.event import Place
from tracer.model.names import Pod
from tracer.model.selection import Selection
from tracer.model.units import span
from tracer.why.common.phrases import code_words
from tracer.why.story import Story

# The time that a kubelet and a runtime may take for one step on a busy node.
PATIENCE_SECONDS = 10.0
NS = 1_000_000_000
MAX_NOTES = 8


class Waiting:
    """Judges the states from `service`. `patience` is in seconds."""

    def __init__(
        self,
        service: StateService,
        selection: Selection,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._service = service
        self._selection = selection
        self._patience = patience
        self._since: dict[str, tuple[str, float]] = {}  # by pod uid: its wait and the begin

    def stories(self, known: Mapping[str, Pod], began_ns: int) -> list[Story]:
        """Stories of the pods that have waited for too long. `known` are pods by uid."""
        states = self._service.latest
        if states is None:
            return []
        waiting = [*_for_containers(states), *self._for_sandboxes(states, known)]
        since = {state.pod.uid: self._since.get(state.pod.uid) for what, state in waiting}
        self._since = {
            state.pod.uid: before
            if (before := since[state.pod.uid]) and before[0] == what
            else (what, states.asked)
            for what, state in waiting
        }
        stories = []
        for _, state in waiting:
            watched = states.asked - self._since[state.pod.uid][1]
            if watched >= self._patience:
                waited = state.waited_ns or int(watched * NS)
                stories.append(_story(replace(state, waited_ns=waited), began_ns))
        return stories

    def notes(self) -> list[str]:
        """Notes on the pods in which nothing runs, which explain why nothing happens. Dead pods
        count only if no pod lives."""
        states = self._service.latest
        if states is None:
            return []
        now = time.time_ns()
        alive = [state for state in states.pods.values() if state.ready_ns is not None]
        shown = [state for state in alive or states.pods.values() if not state.running]
        notes = [_note(state, now) for state in shown]
        more = len(notes) - MAX_NOTES
        return notes[:MAX_NOTES] + ([f"{more} other pods run nothing either"] if more > 0 else [])

    @property
    def known(self) -> bool:
        """Whether the runtimes have been asked."""
        return self._service.latest is not None

    def seen(self) -> bool:
        """Whether a runtime knows a selected pod."""
        return bool(self._service.latest and self._service.latest.pods)

    def message(self, container_id: str) -> str | None:
        """The runtime's message on the container's end."""
        for state in self._service.latest.pods.values() if self._service.latest else ():
            for container in state.containers:
                if container.id == container_id:
                    return container.message or None
        return None

    def is_ended(self, container_id: str | None) -> bool:
        """Whether the runtime knows of the container's end."""
        pods = self._service.latest.pods.values() if self._service.latest else ()
        return any(
            container.id == container_id and container.state == "exited"
            for state in pods
            for container in state.containers
        )

    def is_gone(self, uid: str | None, since: float) -> bool:
        """Whether the pod has been removed, according to an answer after `since`."""
        states = self._service.latest
        if states is None or states.asked < since or states.silent or uid is None:
            return False
        state = states.pods.get(uid)
        return state is None or state.ready_ns is None

    def _for_sandboxes(
        self, states: States, known: Mapping[str, Pod]
    ) -> Iterator[tuple[str, PodState]]:
        """Pods that wait for their sandbox, since an unknown time. Empty if a runtime is silent."""
        if states.silent or not self._service.asks_somebody:
            return
        for uid in states.empty - states.pods.keys():
            pod = known.get(uid) or Pod(uid)
            if self._selection.wants_pod(pod):
                yield "sandbox", PodState(pod, known=False)


def _for_containers(states: States) -> Iterator[tuple[str, PodState]]:
    now = time.time_ns()
    for state in states.pods.values():
        created = [one for one in state.newest() if one.state == "created"]
        if state.ready_ns is None or state.running or (state.containers and not created):
            continue
        since = max([state.ready_ns, *(one.created_ns for one in created)])
        what = " ".join(["container", *(one.id for one in created)])
        yield what, replace(state, waited_ns=max(now - since, 1))


def _story(state: PodState, began_ns: int) -> Story:
    place = Place(0, None, CgroupIdentity(state.pod.uid), state.pod)
    return Story(place, [], None, began_ns, None, [], state=state)


def _runtimes_words(code: int) -> str:
    """Runtimes tell a signal as 128 and its number, and a program may end with that code itself."""
    if 128 < code <= 128 + SIGRTMAX:
        return f", as of {signal_name(code - 128)}"
    return code_words(code)


def _note(state: PodState, now: int) -> str:
    ended = [
        f"{one.name} ended {span(now - one.ended_ns)} ago with exit code {one.exit_code}"
        f"{_runtimes_words(one.exit_code or 0)}" + (f" ({one.message})" if one.message else "")
        for one in state.newest()
        if one.state == "exited" and one.ended_ns
    ]
    if state.ready_ns is None:
        what = "is gone or has ended"
    elif state.containers:
        what = "runs no container"
    else:
        what = f"has a sandbox for {span(now - state.ready_ns)}, and no container in it"
    return f"{state.pod.title} {what}{': ' if ended else ''}{', '.join(ended)}"
