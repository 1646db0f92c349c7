# SPDX-License-Identifier: Apache-2.0
"""A master killed its own worker and the container lives on: gunicorn, uwsgi and the like do so
with a worker that took too long. It is often mistaken for an OOM kill.

SIGTERM alone proves nothing, because scaling down uses it too. A few programs are exceptions: their
time limit sends SIGTERM, and they retire idle workers in another way.
"""

from __future__ import annotations

from tracer.model.event import Process
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import STOPPING_NS, ended_by, is_of_master, is_stopping, oom_of
from tracer.why.common.phrases import times, who
from tracer.why.entry import Entry, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

RUTHLESS = ("SIGKILL", "SIGABRT")
POLITE = "SIGTERM"
# Programs whose time limit sends SIGTERM, by a script's name or an executable's prefix; and the
# arguments that make them retire idle workers with SIGTERM too.
_SCRIPTS, _PROGRAMS, _SCALES = ("celery",), ("php-fpm",), ("--autoscale",)
MAX_WORDS, MAX_SCRIPT_AT = 64, 8
# A master that reloads ends workers, too.
_RELOADS = ("SIGHUP", "SIGUSR1", "SIGUSR2")
_ASKED = "that it took too long: a master may end a worker with SIGTERM that it needs no more"


def _judge(story: Story) -> Verdict | None:
    found = [entry for entry in story.of("signal") if _is_blow(story, entry)]
    if not found:
        return None
    last = found[-1]
    victims = {entry.event.about.pid for entry in found if entry.event.about is not None}
    again = f" ({times(len(victims), 'worker')} in all)" if len(victims) > 1 else ""
    ends = [end for entry in found if (end := ended_by(story, entry)) is not None]
    handled = ended_by(story, last)
    name = last.body["signal"]["name"]
    by_itself = handled is not None and handled.body["signal"] is None
    doubts = (f"that {name} made it end is told by the order of events",) if by_itself else ()
    if all(entry.body["signal"]["name"] == POLITE for entry in found):
        doubts = (*doubts, _ASKED)
    return Verdict(
        "child_killed_by_parent",
        f"the worker {who(last.event.about)} was killed by its own master: {_names(found, last)}"
        f" from {who(last.event.by)}{again}; it was not out of memory",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        tuple(dict.fromkeys((*found, *ends))),
        "a master does that with a worker that took too long: its log says which request or task"
        " (gunicorn --timeout, uwsgi harakiri); make that quicker, or raise"
        " the time-out; Kubernetes shows nothing as long as the first process lives",
        doubts,
    )


def _is_blow(story: Story, entry: Entry[SignalBody]) -> bool:
    """Whether a master killed its worker. Killing any other child is a program's own business."""
    victim, sender = entry.event.about, entry.event.by
    if victim is None or sender is None:
        return False
    name = entry.body["signal"]["name"]
    if name not in RUTHLESS and not (name == POLITE and _is_time_limit(story, entry)):
        return False
    if not is_of_master(entry):
        return False
    if not took_effect(entry) or story.is_init(victim) or is_stopping(story, entry):
        return False
    return ended_by(story, entry) is not None and oom_of(story, victim) is None


def _is_time_limit(story: Story, entry: Entry[SignalBody]) -> bool:
    """Whether a known program's SIGTERM can only be its time limit, and was deadly. Idle workers
    are retired in another way."""
    sender, end = entry.event.by, ended_by(story, entry)
    if sender is None or end is None or end.body["signal"] is None:
        return False
    reloads = any(
        told.body["signal"]["name"] in _RELOADS
        and took_effect(told)
        and 0 <= entry.boot_ns - told.boot_ns <= STOPPING_NS
        for told in story.signals(sender)
    )
    return not reloads and _has_time_limits(sender)


def _has_time_limits(process: Process) -> bool:
    words = (process.argv or [])[:MAX_WORDS]
    if any(word.startswith(_SCALES) for word in words):
        return False
    scripts = [word.rpartition("/")[2] for word in words[:MAX_SCRIPT_AT]]
    program = (process.exe or "").rpartition("/")[2]
    return any(name in scripts for name in _SCRIPTS) or program.startswith(_PROGRAMS)


def _names(found: list[Entry[SignalBody]], last: Entry[SignalBody]) -> str:
    """The names of all signals that this worker got."""
    assert last.event.about is not None
    pid = last.event.about.pid
    names = [
        entry.body["signal"]["name"]
        for entry in found
        if entry.event.about is not None and entry.event.about.pid == pid
    ]
    return ", then ".join(dict.fromkeys(names))


CAUSE = Cause(23, _judge, rests_on=frozenset(("signals", "exits")))
