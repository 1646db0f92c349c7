# SPDX-License-Identifier: Apache-2.0
"""Say what happened to a pod, how sure that is, and what to do.

`ktrace why POD` and `ktrace why FILE`: what happened, how sure that is, the evidence, and what
to do. With an agent's history it answers at once; else it waits until there is something to
explain.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from tracer import probes
from tracer.cli._history import directory, life_text, verdict_text
from tracer.cli._options import (
    color,
    complete_pod,
    cri_socket,
    every_probe,
    in_colour,
    kubernetes,
    limits,
    no_argv,
    node_name,
    or_file,
    probe_options,
    selection,
    selectors,
)
from tracer.cli._tracing import (
    begin,
    make_command,
    node_of,
    request,
    say,
    timelines_forgotten,
    to_the_end,
)
from tracer.model.errors import BadRecording, KtraceError, UsageError
from tracer.model.event import Clock, Place, to_json
from tracer.model.selection import AS_TARGET, Selection
from tracer.model.summary import summary
from tracer.model.units import span
from tracer.model.workloads import parse as parse_workload
from tracer.recording import SUFFIX

if TYPE_CHECKING:  # slow: the history needs none of it
    from tracer.agent.history.entry import Told
    from tracer.agent.history.query import Row
    from tracer.model.kubernetes import Facts
    from tracer.recording.metadata import Metadata
    from tracer.why.engine import Explanation
    from tracer.why.timelines import Timelines

# Kinds wanted from any pod: a connection's other end knows why it was reset, or not answered.
_BESIDES = ("tcp_reset", "packet_drop", "backlog_drop")

# Containers of which the history tells how they live.
MAX_LIVES = 20

Show = Callable[["Explanation", Clock, str], None]


def run(
    what: str | None,
    pods: tuple[str, ...],
    output: str,
    color: str,
    wait_for_next: bool,
    **values: Any,
) -> None:
    facts = _facts(values.pop("events"), what)
    show = _show_json if output == "json" else partial(_show_text, in_colour(color))
    wanted = selection({**values, "pods": pods}, _BESIDES)
    if what and _is_recording(what):
        _explain_recording(what, wanted, show, facts)
    elif what and pods:
        raise UsageError(f"there is no recording {what!r}", "--pod chooses a pod of a recording")
    elif not (what or wanted.about_target):
        raise UsageError(
            "which pod?", "ktrace why NAMESPACE/POD, deploy/NAME or -l KEY=VALUE; or a recording"
        )
    elif what and not wait_for_next and _told_before(what, values, output, in_colour(color)):
        return
    elif what and not wanted.containers and _is_plain(what, values):
        _watch(replace(wanted, containers=(what,)), values, show)
    else:
        _watch(replace(wanted, pods=(what,)) if what else wanted, values, show)


def _facts(files: Sequence[str], what: str | None) -> Facts | None:
    """What Kubernetes says in these files; None if there are none."""
    if not files:
        return None
    if not (what and _is_recording(what)):
        raise UsageError(
            "--events tells what Kubernetes said of a recording", "ktrace why FILE --events EVENTS"
        )
    from tracer.kubernetes.file import facts_of_file
    from tracer.model.kubernetes import Facts
    from tracer.why.timelines import MAX_RECORDED

    facts = Facts(MAX_RECORDED)
    for file in files:
        facts.learn(facts_of_file(file))
    return facts


def _is_recording(what: str) -> bool:
    """Whether it is a file, or can only be meant as one."""
    return Path(what).is_file() or what.endswith(SUFFIX) or what.startswith(("/", "."))


def _is_plain(what: str, values: Mapping[str, Any]) -> bool:
    """Whether a name can only be a container's: the node has no pod of Kubernetes, and no pod of
    podman by this name. With `wait`, the container need not exist yet."""
    from tracer.identity.inventory import current_names, plain_container
    from tracer.kernel.cgroupfs import has_pods
    from tracer.model.selection import pod_matches

    if has_pods() or "/" in what:
        return False
    names = current_names(values["cri_socket"])
    if any(pod_matches(pod, what) for pod in names.pods.values()):
        return False
    return bool(values["wait"] or plain_container(what, names))


# From the agent's history


def _told_before(what: str, values: Mapping[str, Any], output: str, colour: bool) -> bool:
    """Shows the last death that the agent's history knows of; without one, the last harm, or how
    its containers live. False if there is nothing."""
    from tracer.agent.history.query import History, exists, wants

    place = Path(values["dir"])
    if values["labels"] or values["wait"]:
        return False
    try:
        if not exists(place):
            return False
        history = History(place)
        wanted = wants(what, values["namespaces"], values["containers"])
        told = history.last_death(wanted) or history.last_harm(wanted)
        lives = [] if told else history.last_lives(wanted)
        history.close()
        if history.doubt:
            say(f"ktrace: {history.doubt}; this is from the recordings")
    except KtraceError as error:
        say(f"ktrace: {error.message}")
        return False
    if told is not None:
        _show_told(told, output, colour)
    elif lives:
        _show_lives(lives, output, what)
    else:
        say(f"ktrace: the history knows nothing of {what}; waiting for what happens next")
    return bool(told or lives)


def _show_told(told: Told, output: str, colour: bool) -> None:
    age = span(max(0, time.time_ns() - told.at_ns))
    say(f"ktrace: this was {age} ago, says the agent's history; --next waits for the next")
    if output == "json":
        from tracer.outputs.whole import write_lines

        write_lines(sys.stdout.buffer, [told.json.rstrip(b"\n") + b"\n"])
    else:
        from tracer.outputs.terminal import terminal_width

        text = verdict_text(told, colour=colour, width=terminal_width())
        click.echo(text, color=colour)


def _show_lives(lives: Sequence[Row], output: str, what: str) -> None:
    """As JSON they are the objects of `ktrace history`."""
    say("ktrace: so far, says the agent's history; --next waits for what happens next")
    if len(lives) > MAX_LIVES:
        say(f"ktrace: these are the last {MAX_LIVES}: ktrace history {shlex.quote(what)} has more")
    for row in lives[-MAX_LIVES:]:
        if output == "json":
            from tracer.agent.history.table import to_object

            line = orjson.dumps(to_object(row), option=orjson.OPT_APPEND_NEWLINE)
            sys.stdout.buffer.write(line)
        else:
            from tracer.outputs.terminal import terminal_width

            click.echo(life_text(row, time.time_ns(), width=terminal_width()))


# Live


def _watch(chosen: Selection, values: Mapping[str, Any], show: Show) -> None:
    from tracer.cli._watch import Watch
    from tracer.identity.states import StateService
    from tracer.session.run import Run
    from tracer.why.crash import FaultFinder
    from tracer.why.timelines import Timelines, sees_both_ends, sees_drops

    clock, node = Clock(), node_of(values["node_name"])
    timelines = Timelines(clock)
    faults = FaultFinder()
    workloads = [found for pod in chosen.pods if (found := parse_workload(pod))]
    follows = bool(workloads or chosen.labels)
    for workload in workloads:
        say(
            f"ktrace: pods of a {workload.kind} are told by name and label, as a node does not"
            f" know owners: {workload.how}"
        )
    watch = Watch(timelines, faults, say, partial(_tell, clock, node, show), follows)
    with Run(request(every_probe(), values, chosen), watch, clock, say) as run:
        begin(run, values["ready_file"])
        timelines.began_ns = clock.now()
        timelines.traced = frozenset(probe.name for probe in run.probes)
        wanted = run.selection
        timelines.both_ends = sees_both_ends(wanted, run.cannot_tell)
        timelines.sees_drops = sees_drops(wanted, run.cannot_tell)
        timelines.mine = wanted.wants
        timelines.facts = run.session.facts
        states = StateService(run.state_sources, lambda pod: bool(wanted.wants_pod(pod)))
        states.start()
        watch.begin(run.session, wanted, states)
        if sys.stderr.isatty():
            say("ktrace: waiting for something to happen to it; Ctrl-C ends")
        to_the_end(run, lambda: timelines.forgotten)
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


def _say_nothing(but: Sequence[str]) -> None:
    """`but` lists the doubts: without any, everything was seen and something ran."""
    if but:
        say(f"ktrace: nothing was seen that needs an explanation, but {'; '.join(but)}")
    else:
        say("ktrace: nothing happened that needs an explanation")


def _missed(timelines: Timelines) -> list[str]:
    lost = [f"{count} {probe} events were lost" for probe, count in timelines.lost().items()]
    untraced = sorted(set(probes.names()) - (timelines.traced or set()))
    verb = "was" if len(untraced) == 1 else "were"
    return lost + ([f"{', '.join(untraced)} {verb} not traced"] if untraced else [])


# From a recording


def _explain_recording(
    file: str, chosen: Selection, show: Show, facts: Facts | None = None
) -> None:
    """Explains the readable part of a damaged recording, then reports the damage."""
    from tracer.cli._recording import Wanted, check_pods, play
    from tracer.model.kubernetes import Facts
    from tracer.why.engine import explain_all
    from tracer.why.timelines import MAX_RECORDED, Timelines, sees_both_ends, sees_drops

    told: list[tuple[Metadata, Clock, Timelines]] = []
    by_hand = facts is not None
    facts = Facts(MAX_RECORDED) if facts is None else facts

    def make(metadata: Metadata, _probes: object, clock: Clock, _places: object) -> Timelines:
        traced = frozenset(metadata.attached)
        seen = metadata.selection, metadata.cannot_tell
        sees = sees_both_ends(*seen), sees_drops(*seen)
        timelines = Timelines(clock, metadata.began, traced, *sees, most=MAX_RECORDED)
        timelines.facts = facts
        told.append((metadata, clock, timelines))
        return timelines

    damage: BadRecording | None = None
    try:
        # everything, also events of no pod: a story may need them
        everything = Wanted(Selection(everything=True))
        play(file, everything, make, facts=facts)
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
        if by_hand and wanted and not any(one.verdict.told for one in wanted):
            say(
                f"ktrace: Kubernetes says nothing of them: {facts.learned} Events and pods are"
                " about others"
            )
        if not wanted and not damage:
            _say_nothing(_missed(timelines))
        if timelines.forgotten:
            say(f"ktrace: {timelines_forgotten(timelines.forgotten)}")
    if damage:
        raise damage


def _is_target(chosen: Selection, place: Place) -> bool:
    return bool((chosen.verdict(place) or 0) & AS_TARGET)


def _show_json(explanation: Explanation, clock: Clock, node: str) -> None:
    from tracer.outputs.whole import write_lines
    from tracer.why.render import to_event

    write_lines(sys.stdout.buffer, [to_json(to_event(explanation, clock), clock, node)])


def _show_text(colour: bool, explanation: Explanation, clock: Clock, _node: str) -> None:
    from tracer.outputs.terminal import terminal_width
    from tracer.why.render import to_text

    text = to_text(explanation, clock, colour=colour, width=terminal_width())
    click.echo(text, color=colour)


command = make_command(
    "why",
    summary(__doc__),
    (
        "ktrace why shop/web-0                  its last end, if an agent has seen one; else wait",
        "ktrace why shop/web-0 --next           wait until it ends or something happens to it",
        "ktrace why web-0 --duration 10m        give up after ten minutes",
        "ktrace why web-0 --wait -o json        a pod that is still to come",
        "ktrace why deploy/web                  its pods, and those that replace them",
        "ktrace why -l app=web                  all pods with a label, in the same way",
        "ktrace why web                         a container, on a node without pods",
        "ktrace why node.ktrace                 everything that ended or was hurt in a recording",
        "ktrace why node.ktrace --pod web-0     one pod of it",
        "ktrace why node.ktrace --events FILE   with what kubectl get events,pods -o json printed",
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
        click.Option(
            ["--events"],
            multiple=True,
            metavar="FILE",
            help="With a recording: what Kubernetes says, as kubectl get events,pods -A -o json"
            " prints it; - is standard input.",
        ),
        click.Option(
            ["--next", "wait_for_next"],
            is_flag=True,
            help="Wait for what happens next, also if the agent's history knows of an end.",
        ),
        directory(),
        *probe_options(every_probe()),
        *limits(),
        no_argv(),
        *kubernetes(),
        cri_socket(),
        node_name(),
    ],
    run,
)
