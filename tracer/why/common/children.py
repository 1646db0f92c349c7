# SPDX-License-Identifier: Apache-2.0
"""Children of the container's first process that did not end well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.model.event import Process
from tracer.probes.exits import ExitBody
from tracer.probes.oom.decoder import KillBody
from tracer.probes.signals import HARMLESS, SignalBody
from tracer.why.common.faults import ABORT, FAULTS
from tracer.why.common.phrases import who
from tracer.why.common.senders import is_foreign
from tracer.why.common.stopped import asks_to_end
from tracer.why.entry import Entry, took_effect
from tracer.why.executed import is_executed, is_from_executed
from tracer.why.story import ANY_PROBE, UNDESCRIBED, Story

# A pool that lost a worker, or a shell whose pipe broke, gives up at once. How long that takes
# depends on the node's load, and so does the time the child took to die.
AT_ONCE_NS, LONGEST_NS = 100_000_000, 2_000_000_000
TIMES_SLOWER = 20
# If the container did nothing else in between, giving up was its answer on the slowest node. But
# what waits before it tries again mostly does so for whole seconds.
NEXT_NS = 1_000_000_000
MUCH_LONGER = 5
# The probes that see what a container does in between.
_SEEN = frozenset(("signals", "exits"))
# How long the clean-up of a program that was asked to end may take: a worker may have a request to
# finish.
SOON_NS = 2_000_000_000
# How long a stop may take, counted from its first signal.
STOPPING_NS = 600_000_000_000


@dataclass(frozen=True, slots=True)
class Lost:
    """A child that the OOM killer took, that crashed, or that another process killed: its end and
    the cause of the end."""

    end: Entry[ExitBody]
    oom: Entry[KillBody] | None
    blow: Entry[SignalBody] | None

    @property
    def evidence(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in (self.oom, self.oom is None and self.blow) if entry)


def own_blow(story: Story, entry: Entry[ExitBody]) -> Entry[SignalBody] | None:
    """The child's own fault, or the signal it raised itself, that ended it."""
    signal, child = entry.body["signal"], entry.event.about
    if child is None or signal is None or signal["name"] not in (*FAULTS, ABORT):
        return None
    blow = story.deadly(signal["number"], child)
    if blow is None:
        return None
    by_itself = blow.event.by is not None and blow.event.by.pid == child.pid
    return blow if by_itself or blow.body["origin"] == "kernel" else None


def called(story: Story, process: Process | None) -> tuple[str, tuple[str, ...]]:
    """`the child sleep[12] (/bin/sleep)`, or the command that the runtime executed and the doubt of
    that."""
    if is_executed(process) or is_from_executed(process, story.init):
        by = "which the runtime executed (kubectl exec, a probe or a hook)"
        doubt = "that the runtime executed it is told by its descent"
        return f"the command {who(process)}, {by},", (doubt,)
    return f"the child {who(process)}", ()


def parent_of(process: Process | None) -> int | None:
    """Its parent's pid, as it was when the process was described."""
    parents = process.ancestry[:1] if process is not None else []
    return parents[0][0] if parents else None


def is_of_master(entry: Entry[SignalBody]) -> bool:
    """Whether a program sent the signal to a fork of itself, as a master does to its worker."""
    victim, sender = entry.event.about, entry.event.by
    if victim is None or sender is None or parent_of(victim) != sender.pid:
        return False
    return victim.exe is not None and victim.exe == sender.exe


def ended_by(
    story: Story, blow: Entry[SignalBody], within_ns: int = SOON_NS
) -> Entry[ExitBody] | None:
    """The end of a child that a signal caused: by the signal itself, or within `within_ns` after a
    request to end."""
    child, signal = blow.event.about, blow.body["signal"]
    if child is None:
        return None
    for entry in story.of("exit"):
        about = entry.event.about
        if about is None or about.pid != child.pid or entry is story.end:
            continue
        if about.start_boot_ns not in (child.start_boot_ns, None) or entry.boot_ns < blow.boot_ns:
            continue
        deadly = entry.body["signal"]
        if deadly is not None:
            return entry if deadly["number"] == signal["number"] else None
        asked = signal["name"] == ABORT or asks_to_end(blow)
        return entry if asked and entry.boot_ns - blow.last_ns <= within_ns else None
    return None


def was_asked(story: Story, process: Process | None, until_ns: int, since_ns: int = 0) -> bool:
    """Whether the process was asked to end shortly before `until_ns`, and not before `since_ns`."""
    return any(
        asks_to_end(entry)
        and 0 <= until_ns - entry.boot_ns <= STOPPING_NS
        and entry.last_ns >= since_ns
        for entry in story.signals(process)
    )


def is_stopping(story: Story, blow: Entry[SignalBody]) -> bool:
    """Whether the whole container was about to end when a child got the signal. What its program
    then does to its children belongs to an orderly stop, however ruthless. A child that was started
    after the request shows that the program goes on: uwsgi takes SIGTERM for a reload."""
    child = blow.event.about
    started = child.start_boot_ns if child is not None else None
    return story.init is not None and was_asked(story, story.init, blow.boot_ns, started or 0)


def oom_of(story: Story, process: Process) -> Entry[KillBody] | None:
    ooms = [
        entry
        for entry in story.of("oom")
        if entry.event.about is not None and entry.event.about.pid == process.pid
    ]
    return ooms[-1] if ooms else None


def lost_child(story: Story) -> Lost | None:
    """The last child lost just before the first process ended by itself, as a possible reason."""
    end = story.end
    if end is None or end.body["exit_code"] is None:
        return None
    found = [
        lost
        for entry in story.of("exit")
        if entry is not end
        and entry.body["signal"] is not None
        and 0 <= end.boot_ns - entry.last_ns <= LONGEST_NS
        and (lost := _lost(story, entry)) is not None
        and (
            end.boot_ns - entry.last_ns <= _at_once_ns(lost)
            or was_next(story, entry, end, _at_once_ns(lost))
        )
    ]
    return found[-1] if found else None


def was_next(story: Story, child: Entry[ExitBody], end: Entry[ExitBody], at_once_ns: int) -> bool:
    """Whether the first process's end came next after a child's: the container started no process
    in between, the first one got no signal, and whoever else ended did so in step, as the readers
    of a pipe do. In step is what takes at most `at_once_ns`, or not much longer than another step,
    which shows how slow the node is. False if any of that may have been missed."""
    missed = any(loss.probe in (*_SEEN, ANY_PROBE, UNDESCRIBED) for loss in story.losses)
    if missed or story.left_out or (story.traced is not None and not story.traced >= _SEEN):
        return False
    since = child.last_ns
    if not since < end.boot_ns < since + NEXT_NS or any(map(_is_news(since), story.signals())):
        return False
    others = [entry for entry in story.of("exit") if entry not in (child, end)]
    known = [*(entry.last.about for entry in others), *story.survivors]
    own = [one for one in known if one is not None and not is_from_executed(one, story.init)]
    if any((one.start_boot_ns or 0) > since for one in own):
        return False
    steps = sorted(
        entry.last_ns for entry in others if since < entry.last_ns and entry.last.about in own
    )
    gaps = sorted(
        later - earlier
        for earlier, later in zip([since, *steps], [*steps, end.boot_ns], strict=True)
    )
    return not steps or gaps[-1] <= max(at_once_ns, MUCH_LONGER * gaps[-2])


def _is_news(since_ns: int) -> Callable[[Entry[SignalBody]], bool]:
    """Whether a signal since then may have made its target do something. That a child has ended
    does not count."""
    return lambda entry: (
        entry.last_ns > since_ns
        and took_effect(entry)
        and entry.body["signal"]["name"] not in HARMLESS
    )


def _at_once_ns(lost: Lost) -> int:
    """How long the first process may take to react. Writing a core dump says nothing about the
    node's load."""
    dying = min(lost.end.last_ns - entry.last_ns for entry in lost.evidence)
    slow = 0 if lost.end.body["core_dumped"] else max(dying, 0)
    return AT_ONCE_NS + TIMES_SLOWER * slow


def _lost(story: Story, entry: Entry[ExitBody]) -> Lost | None:
    child = entry.event.about
    if child is None or not _reaches_first(story, child, entry):
        return None
    oom = oom_of(story, child)
    blow = own_blow(story, entry)
    if blow is None:
        signal = entry.body["signal"]
        deadly = story.deadly(signal["number"], child) if signal else None
        own = deadly is None or not (is_foreign(deadly) or deadly.body["origin"] == "kernel")
        blow = None if own else deadly
    return Lost(entry, oom, blow) if oom or blow else None


def _reaches_first(story: Story, child: Process, lost: Entry[ExitBody]) -> bool:
    """Whether the first process could notice the loss. It could if it was the parent, or if the
    parent has ended: then the parent passed the end on or left its child to the first process. A
    parent that lived on kept the loss to itself. A command that the runtime executed has no parent
    in the container."""
    parent, init = parent_of(child), story.init
    if parent is None or init is None or parent == init.pid:
        return True
    if is_from_executed(child, init):
        return False
    return bool(story.left_out) or any(
        entry.event.about is not None and entry.event.about.pid == parent
        for entry in story.of("exit")
        if entry is not lost
    )
