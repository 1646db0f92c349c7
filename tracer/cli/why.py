# SPDX-License-Identifier: Apache-2.0
"""`ktrace why POD` and `ktrace why FILE`: what happened, how sure that is, on what evidence, and
what to do. Live it waits until there is something to explain."""

from __future__ import annotations

import sys
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
    selection,
    selectors,
)
from tracer.cli._tracing import Tracing, make_command, node_of, timelines_forgotten
from tracer.cli._watch import Watch
from tracer.identity.states import StateService
from tracer.model.errors import BadRecording, UsageError
from tracer.model.event import Clock, Place, to_json
from tracer.model.selection import AS_TARGET, Selection
from tracer.model.workloads import parse as parse_workload
from tracer.outputs.escape import escape
from tracer.recording import SUFFIX
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation, explain_all
from tracer.why.timelines import MAX_RECORDED, Timelines, sees_both_ends

if TYPE_CHECKING:
    from tracer.recording.metadata import Metadata

Show = Callable[[Explanation, Clock, str], None]


def run(what: str | None, pods: tuple[str, ...], output: str, color: str, **values: Any) -> None:
    show = _show_json if output == "json" else partial(_show_text, in_colour(color))
    wanted = {name: values.pop(name) for name in ("namespaces", "labels", "containers")}
    if what and _is_recording(what):
        _explain_recording(what, selection({**_EVERYTHING, **wanted, "pods": pods}), show)
    elif what and pods:
        raise UsageError(f"there is no recording {what!r}", "--pod chooses a pod of a recording")
    elif not (what or pods or any(wanted.values())):
        raise UsageError(
            "which pod?", "ktrace why NAMESPACE/POD, deploy/NAME or -l KEY=VALUE; or a recording"
        )
    elif what and not wanted["containers"] and _is_plain(what, values):
        _watch({**_EVERYTHING, **values, **wanted, "containers": (what,), "pods": ()}, show)
    else:
        _watch({**_EVERYTHING, **values, **wanted, "pods": (what,) if what else pods}, show)


def _is_recording(what: str) -> bool:
    """A file, or what can only be meant to be one."""
    return Path(what).is_file() or what.endswith(SUFFIX) or what.startswith(("/", "."))


def _is_plain(what: str, values: Mapping[str, Any]) -> bool:
    """Whether a name can only be a container's: no pod of Kubernetes is here, nor one of podman's
    that is called so. One that is still to come has to be waited for."""
    from tracer.identity.inventory import current_names, plain_container
    from tracer.kernel.cgroupfs import has_pods
    from tracer.model.selection import pod_matches

    if has_pods() or "/" in what:
        return False
    names = current_names(values["cri_socket"])
    if any(pod_matches(pod, what) for pod in names.pods.values()):
        return False
    return bool(values["wait"] or plain_container(what, names))


# Live


def _watch(values: Mapping[str, Any], show: Show) -> None:
    clock, node = Clock(), node_of(values)
    timelines = Timelines(clock)
    faults = FaultFinder()
    chosen = selection(values)
    workloads = [found for pod in chosen.pods if (found := parse_workload(pod))]
    follows = bool(workloads or chosen.labels)
    for workload in workloads:
        _say(
            f"ktrace: pods of a {workload.kind} are told by name and label, as a node does not"
            f" know owners: {workload.how}"
        )
    tell = partial(_tell, clock, node, show) if follows else None
    watch = Watch(timelines, faults, _say, tell)
    every = [probes.get(name) for name in probes.names()]
    tracing = Tracing(every, values, watch, clock, None, node)
    timelines.began_ns = clock.now()
    timelines.traced = frozenset(probe.name for probe in tracing.probes)
    wanted = tracing.wanted
    timelines.both_ends = sees_both_ends(wanted, tracing.cannot_tell)
    timelines.mine = wanted.wants
    states = StateService(tracing.state_sources, lambda pod: bool(wanted.wants_pod(pod)))
    states.start()
    watch.begin(tracing.session, wanted, states)
    if sys.stderr.isatty():
        _say("ktrace: waiting for something to happen to it; Ctrl-C ends")
    tracing.to_the_end(lambda: timelines.forgotten)
    states.stop()
    explanations = watch.untold()
    faults.close()
    for explanation in explanations:
        show(explanation, clock, node)
    if not (explanations or watch.told):
        unseen = [] if watch.saw_pod() else ["no such pod was seen here"]
        _say_nothing([*unseen, *watch.waiting.notes(), *_missed(timelines)])


def _tell(clock: Clock, node: str, show: Show, explanation: Explanation) -> None:
    show(explanation, clock, node)
    sys.stdout.flush()


def _say(words: str) -> None:
    click.echo(escape(words), err=True)


def _say_nothing(but: Sequence[str]) -> None:
    """That nothing happened is known only if all was seen, and if something ran."""
    if but:
        _say(f"ktrace: nothing was seen that needs an explanation, but {'; '.join(but)}")
    else:
        _say("ktrace: nothing happened that needs an explanation")


def _missed(timelines: Timelines) -> list[str]:
    lost = [f"{count} {probe} events were lost" for probe, count in timelines.lost().items()]
    untraced = sorted(set(probes.names()) - (timelines.traced or set()))
    verb = "was" if len(untraced) == 1 else "were"
    return lost + ([f"{', '.join(untraced)} {verb} not traced"] if untraced else [])


# What the selectors that `why` does not have would say.
_EVERYTHING: dict[str, Any] = {
    "sender_pods": (),
    "pids": (),
    "everything": False,
    # why a connection was reset, its other end tells
    "besides": ("tcp_reset",),
}
# Also what concerns no pod, from the beginning to the end: a story may need it.
_WHOLE_RECORDING: dict[str, Any] = {
    **_EVERYTHING,
    **dict.fromkeys(("pods", "namespaces", "labels", "containers"), ()),
    **{"everything": True, "begin": None, "end": None, "count": None},
}


# From a recording


def _explain_recording(file: str, chosen: Selection, show: Show) -> None:
    """What was read of a damaged recording is explained, and then its damage is said."""
    from tracer.cli._recording import check_pods, play

    told: list[tuple[Metadata, Clock, Timelines]] = []

    def make(metadata: Metadata, _probes: object, clock: Clock, _places: object) -> Timelines:
        both_ends = sees_both_ends(metadata.selection, metadata.cannot_tell)
        traced = frozenset(metadata.attached)
        timelines = Timelines(clock, metadata.began, traced, both_ends, most=MAX_RECORDED)
        told.append((metadata, clock, timelines))
        return timelines

    damage: BadRecording | None = None
    try:
        play(file, _WHOLE_RECORDING.copy(), make)
    except BadRecording as error:
        damage = error
    for metadata, clock, timelines in told:
        if not damage:
            check_pods(chosen.pods, timelines.places())
        wanted = [
            explanation
            for explanation in explain_all(timelines.stories())
            if not chosen.about_target or _is_target(chosen, explanation.story.place)
        ]
        for explanation in wanted:
            show(explanation, clock, metadata.node)
        if not wanted and not damage:
            _say_nothing(_missed(timelines))
        if timelines.forgotten:
            _say(f"ktrace: {timelines_forgotten(timelines.forgotten)}")
    if damage:
        raise damage


def _is_target(chosen: Selection, place: Place) -> bool:
    return bool((chosen.verdict(place) or 0) & AS_TARGET)


def _show_json(explanation: Explanation, clock: Clock, node: str) -> None:
    from tracer.why.render import to_event

    sys.stdout.buffer.write(to_json(to_event(explanation, clock), clock, node))


def _show_text(colour: bool, explanation: Explanation, clock: Clock, _node: str) -> None:
    from tracer.outputs.terminal import terminal_width
    from tracer.why.render import to_text

    text = to_text(explanation, clock, colour=colour, width=terminal_width())
    click.echo(text, color=colour)


command = make_command(
    "why",
    "Say what happened to a pod, how sure that is, and what to do.",
    (
        "ktrace why shop/web-0                  wait until it ends or something happens to it",
        "ktrace why web-0 --duration 10m        give up after ten minutes",
        "ktrace why web-0 --wait -o json        a pod that is still to come",
        "ktrace why deploy/web                  its pods, and those that replace them",
        "ktrace why -l app=web                  all pods with a label, in the same way",
        "ktrace why web                         a container, on a node without pods",
        "ktrace why node.ktrace                 everything that ended or was hurt in a recording",
        "ktrace why node.ktrace --pod web-0     one pod of it",
    ),
    [
        click.Argument(
            ["what"],
            metavar="[NAMESPACE/][KIND/]POD|FILE",
            required=False,
            shell_complete=or_file(complete_pod),
        ),
        *(
            option
            for option in selectors()
            if option.name in ("pods", "namespaces", "containers", "labels")
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
