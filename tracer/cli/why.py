# SPDX-License-Identifier: Apache-2.0
"""`ktrace why POD` and `ktrace why FILE`: what happened, how sure that is, on what evidence, and
what to do. Live it waits until there is something to explain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer import probes
from tracer.cli._options import (
    color,
    complete_pod,
    cri_socket,
    in_colour,
    limits,
    no_argv,
    node_name,
    or_file,
)
from tracer.cli._tracing import Tracing, make_command, node_of
from tracer.errors import BadRecording, UsageError
from tracer.event import Clock, Event, Place, to_json
from tracer.faults import FaultFinder
from tracer.probes.exits import is_container_init
from tracer.recording import SUFFIX
from tracer.selection import pod_matches
from tracer.session import Session
from tracer.timeline import SIGKILL, Timelines, ends_container
from tracer.verdicts import Explanation, explain_all
from tracer.views.columns import container_name

if TYPE_CHECKING:
    from tracer.recording.metadata import Metadata

# How long what follows is waited for: an end has its reasons before it; connections that are
# refused come in numbers, and an end may follow what hurt.
SETTLE_AFTER_END_SECONDS, SETTLE_SECONDS = 0.5, 2.0
LOOK_SECONDS = 0.1

Show = Callable[[Explanation, Clock, str], None]


class Watch:
    """Keeps the timelines, and ends the session when there is something to explain. A stop by the
    runtime is waited for until the container has ended."""

    def __init__(self, pod: str, timelines: Timelines, faults: FaultFinder) -> None:
        self.session: Session | None = None
        self._pod = pod
        self._timelines = timelines
        self._faults = faults
        self._next_look = 0.0
        self._deadline: float | None = None
        self._stop_asked = self._fresh = False

    def event(self, event: Event) -> None:
        self._timelines.event(event)
        self._fresh = True
        if event.kind == "signal":
            self._stop_asked |= _asks_to_end(event)
        elif event.kind == "exit" and ends_container(event):
            self._stop_asked = False

    def flush(self) -> None:
        now = time.monotonic()
        if self.session is None or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        self._hold_roots(self.session)
        if self._fresh and self._deadline is None:
            self._deadline = self._when_settled(now)
            self._fresh = False
        if self._deadline is not None and now >= self._deadline and not self._stop_asked:
            self.session.stop()

    def _when_settled(self, now: float) -> float | None:
        """None while there is nothing to explain."""
        explanations = explain_all(self._timelines.stories())
        if not explanations:
            return None
        ended = any(explanation.story.end for explanation in explanations)
        return now + (SETTLE_AFTER_END_SECONDS if ended else SETTLE_SECONDS)

    def _hold_roots(self, session: Session) -> None:
        places = session.resolver.places()
        of_pod = [p for p in places if p.pod and pod_matches(p.pod, self._pod)]
        self._faults.hold_roots({place.identity.container_id for place in of_pod})


def _asks_to_end(event: Event) -> bool:
    if event.body["origin"] != "runtime" or event.body["signal"]["number"] == SIGKILL:
        return False
    return event.about is not None and bool(is_container_init(event.about))


def run(what: str, pods: tuple[str, ...], output: str, color: str, **values: Any) -> None:
    show = _show_json if output == "json" else partial(_show_text, in_colour(color))
    if _is_recording(what):
        _explain_recording(what, pods, values["containers"], show)
    elif pods:
        raise UsageError(f"there is no recording {what!r}", "--pod chooses a pod of a recording")
    else:
        _watch(what, values, show)


def _is_recording(what: str) -> bool:
    """A file, or what can only be meant to be one."""
    return Path(what).is_file() or what.endswith(SUFFIX) or what.startswith(("/", "."))


# Live


def _watch(pod: str, values: Mapping[str, Any], show: Show) -> None:
    clock, node = Clock(), node_of(values)
    timelines = Timelines(clock)
    faults = FaultFinder()
    watch = Watch(pod, timelines, faults)
    every = [probes.get(name) for name in probes.names()]
    tracing = Tracing(every, {**_EVERYTHING, **values, "pods": (pod,)}, watch, clock, None, node)
    timelines.began_ns = clock.now()
    timelines.traced = frozenset(probe.name for probe in tracing.probes)
    watch.session = tracing.session
    if sys.stderr.isatty():
        click.echo(f"ktrace: waiting for something to happen to {pod}; Ctrl-C ends", err=True)
    tracing.to_the_end()
    stories = timelines.stories()
    for story in stories:
        blow = story.blow()
        if blow is not None and blow.event.about is not None:
            story.fault = faults.place_of(blow.event.about)
    faults.close()
    _show(explain_all(stories), clock, node, show)


# What the selectors that `why` does not have would say.
_EVERYTHING: dict[str, Any] = {
    "namespaces": (),
    "labels": (),
    "sender_pods": (),
    "pids": (),
    "everything": False,
}
# Also what concerns no pod, from the beginning to the end: a story may need it.
_WHOLE_RECORDING: dict[str, Any] = {
    **_EVERYTHING,
    **{"pods": (), "containers": (), "everything": True, "begin": None, "end": None, "count": None},
}


# From a recording


def _explain_recording(
    file: str, pods: Sequence[str], containers: Sequence[str], show: Show
) -> None:
    """What was read of a damaged recording is explained, and then its damage is said."""
    from tracer.cli._recording import check_pods, play

    told: list[tuple[Metadata, Clock, Timelines]] = []

    def make(metadata: Metadata, _probes: object, clock: Clock, _places: object) -> Timelines:
        timelines = Timelines(clock, metadata.began, frozenset(metadata.attached))
        told.append((metadata, clock, timelines))
        return timelines

    damage: BadRecording | None = None
    try:
        play(file, _WHOLE_RECORDING.copy(), make)
    except BadRecording as error:
        damage = error
    for metadata, clock, timelines in told:
        if not damage:
            check_pods(pods, timelines.places())
        wanted = [
            explanation
            for explanation in explain_all(timelines.stories())
            if _is_wanted(explanation.story.place, pods, containers)
        ]
        _show(wanted, clock, metadata.node, show)
    if damage:
        raise damage


def _is_wanted(place: Place, pods: Sequence[str], containers: Sequence[str]) -> bool:
    of_pod = place.pod is not None and any(pod_matches(place.pod, glob) for glob in pods)
    return (not pods or of_pod) and (not containers or container_name(place) in containers)


def _show(explanations: Sequence[Explanation], clock: Clock, node: str, show: Show) -> None:
    if not explanations:
        click.echo("ktrace: nothing happened that needs an explanation", err=True)
    for explanation in explanations:
        show(explanation, clock, node)


def _show_json(explanation: Explanation, clock: Clock, node: str) -> None:
    from tracer.views.verdict import to_event

    sys.stdout.buffer.write(to_json(to_event(explanation, clock), clock, node))


def _show_text(colour: bool, explanation: Explanation, clock: Clock, _node: str) -> None:
    from tracer.views.terminal import terminal_width
    from tracer.views.verdict import to_text

    text = to_text(explanation, clock, colour=colour, width=terminal_width())
    click.echo(text, color=colour)


command = make_command(
    "why",
    "Say what happened to a pod, how sure that is, and what to do.",
    (
        "ktrace why shop/web-0                  wait until it ends or something happens to it",
        "ktrace why web-0 --duration 10m        give up after ten minutes",
        "ktrace why web-0 --wait -o json        a pod that is still to come",
        "ktrace why node.ktrace                 everything that ended or was hurt in a recording",
        "ktrace why node.ktrace --pod web-0     one pod of it",
    ),
    [
        click.Argument(
            ["what"], metavar="[NAMESPACE/]POD|FILE", shell_complete=or_file(complete_pod)
        ),
        click.Option(
            ["-p", "--pod", "pods"],
            multiple=True,
            metavar="NAME",
            help="Of a recording: only this pod. Repeatable.",
        ),
        click.Option(
            ["-c", "--container", "containers"],
            multiple=True,
            metavar="NAME",
            help="Only this container of the pod. Repeatable.",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="json is one object a verdict.",
        ),
        color(),
        click.Option(
            ["--wait"], is_flag=True, help="Do not fail when no such pod is there yet: wait for it."
        ),
        *(option for name in probes.names() for option in probes.get(name).options),
        *limits(),
        no_argv(),
        cri_socket(),
        node_name(),
    ],
    run,
)
