# SPDX-License-Identifier: Apache-2.0
"""Words for the program that runs: what a verdict means for a JVM, for Node.js, for nginx.

Each `*.toml` here is about one program, recognised by its executable and arguments. Files are found
by being here; docs/verdicts.md says how to write one. They add hints to a verdict and may replace
its remedy with a better one. They decide nothing and are never certain, because the container
chooses its names and arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from tracer.model.event import Event, Process
from tracer.model.units import size
from tracer.probes.exits import is_exit
from tracer.probes.oom.decoder import is_kill
from tracer.probes.signals import is_signal
from tracer.why.tables import tables

if TYPE_CHECKING:
    from tracer.why.verdict import Verdict

# How many words of a command line are looked at, and how many characters of each.
MAX_WORDS, MAX_LENGTH = 64, 256
# A script's name is among the first words, after the options of its interpreter.
MAX_SCRIPT_AT = 8
# How many characters of an argument are shown.
MAX_SHOWN = 80
# From this size on, the kernel side may have cut a command line.
WHOLE_BYTES = 1000
# One executable that is many programs, by the name with which it is called
_MANY_IN_ONE = {"busybox", "toybox"}
AMOUNT = "{amount}"  # of memory, at the end of a pattern
_NUMBER = re.compile(r"([0-9]{1,15})([kmgt]?)", re.IGNORECASE)
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True, slots=True)
class Rule:
    """What to say, and when. `verdicts` are ids, `codes` exit codes, `signals` names of signals in
    the evidence, and `reasons` these signals' codes; if given, one of each must be present. One
    argument must match `argument`, and none may match any of `without`. `limit` requires the amount
    in that argument to be `above` or `below` the memory limit."""

    says: str
    do: str = ""
    verdicts: Sequence[str] = ()
    codes: Sequence[int] = ()
    signals: Sequence[str] = ()
    reasons: Sequence[str] = ()
    argument: str = ""
    without: Sequence[str] = ()
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """`names` match its executable, or the command as given, without the directory; a script has
    `scripts` instead. `unit` is the unit of amounts without one. `fallback` is for programs without
    a file of their own; an `every` file applies to all programs in addition."""

    rules: Sequence[Rule]
    names: Sequence[str] = ()
    scripts: Sequence[str] = ()
    unit: str = ""
    fallback: bool = False
    every: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """One process: the examined part of its command line, whether that is all of it, and what the
    verdict's evidence says. `limit` is the memory limit that was used up."""

    exe: str
    argv: Sequence[str]
    whole: bool
    code: int | None
    signals: frozenset[str]
    reasons: frozenset[str]
    limit: int | None


def with_words(verdict: Verdict) -> Verdict:
    """Adds what is known about the verdict's programs."""
    hints = dict.fromkeys(verdict.hints)
    remedy = ""
    for process in _about(verdict):
        for says, do in _found(verdict.id, _seen(process, verdict)):
            hints[says] = None
            remedy = remedy or do
    return replace(verdict, hints=tuple(hints), remedy=remedy or verdict.remedy)


def matches(pattern: str, word: str) -> bool:
    """Whether the word matches the pattern, in which `*` stands for any text. Each part of the
    pattern is searched once, so the time is bounded for any word."""
    first, middle, last = _parts(pattern)
    if last is None:
        return word == pattern
    if not word.startswith(first):  # nearly always
        return False
    at, end = len(first), len(word) - len(last)
    if at > end or not word.endswith(last):
        return False
    for part in middle:
        found = word.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@lru_cache(1024)
def _parts(pattern: str) -> tuple[str, tuple[str, ...], str | None]:
    """What stands before the first `*`, between two, and behind the last; no last one without
    any."""
    first, *others = pattern.split("*")
    return (first, tuple(others[:-1]), others[-1]) if others else (first, (), None)


def amount_of(text: str, unit: str) -> int | None:
    """`1g`, `512M`, `4096` in bytes."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) << _SHIFTS[(found[2] or unit).lower()] if found else None


@cache
def programs() -> tuple[Program, ...]:
    return tuple(map(program_of, tables(__file__)))


def program_of(table: Mapping[str, Any]) -> Program:
    """Raises for unknown keys."""
    return Program(**{**table, "rules": [_rule(words) for words in table["rules"]]})


def _rule(words: Mapping[str, Any]) -> Rule:
    assert words.get("limit", "above") in ("above", "below")
    assert AMOUNT not in words.get("argument", "").removesuffix(AMOUNT)
    return Rule(**words)


def _about(verdict: Verdict) -> Iterator[Process]:
    """Each process in the evidence, once."""
    abouts = [_told(entry.event) for entry in verdict.evidence]
    yield from {about.pid: about for about in abouts if about is not None}.values()


def _told(event: Event) -> Process | None:
    """The process itself, or its master. A fork that has not executed anything has no known
    arguments, but has the same ones as its master of the same program."""
    about, by = event.about, event.by
    is_fork = about and by and about.argv is None and about.exe and about.exe == by.exe
    return by if is_fork else about


def _seen(process: Process, verdict: Verdict) -> _Seen:
    argv = process.argv or []
    code = limit = None
    signals, reasons = set(), set()
    for entry in verdict.evidence:
        event = entry.event
        if is_kill(event):
            limit = event.body["limit_bytes"]
        elif is_signal(event):
            signals.add(event.body["signal"]["name"])
            reasons.add(event.body["signal"]["code"])
        elif is_exit(event):
            if event.body["signal"]:
                signals.add(event.body["signal"]["name"])
                reasons.add("")
            if event.about and event.about.pid == process.pid:
                code = event.body["exit_code"]
    return _Seen(
        _base(process.exe or ""),
        [word[:MAX_LENGTH] for word in argv[:MAX_WORDS]],
        bool(argv) and len(argv) <= MAX_WORDS and sum(map(len, argv)) + len(argv) < WHOLE_BYTES,
        code,
        frozenset(signals),
        frozenset(reasons),
        limit,
    )


def _base(path: str) -> str:
    return path.removesuffix(" (deleted)")[-MAX_LENGTH:].rpartition("/")[2]


def _found(verdict_id: str, seen: _Seen) -> Iterator[tuple[str, str]]:
    for program in _programs_of(seen):
        for rule in program.rules:
            argument = _argument(rule, program, seen)
            if argument is not None and _holds(rule, verdict_id, seen):
                shown = argument if len(argument) <= MAX_SHOWN else f"{argument[:MAX_SHOWN]}…"
                known = {"{argument}": shown, "{limit}": size(seen.limit) or "the limit"}
                yield _filled(rule.says, known), _filled(rule.do, known)


def _filled(text: str, known: Mapping[str, str]) -> str:
    """Fills the placeholders in one pass, because a filled-in value may look like a placeholder."""
    return re.sub(r"\{[a-z]{1,16}\}", lambda place: known[place[0]], text)


def _programs_of(seen: _Seen) -> list[Program]:
    """The files about a process. A script takes precedence over its interpreter."""
    every, others = _by_use()
    words = [_base(word) for word in seen.argv[:MAX_SCRIPT_AT]]
    named = [program for program in others if _any_matches(program.scripts, words)]
    if not named:
        names = list(_names(seen))
        named = [program for program in others if _any_matches(program.names, names)]
    return [*(named or [program for program in others if program.fallback]), *every]


@cache
def _by_use() -> tuple[tuple[Program, ...], tuple[Program, ...]]:
    """The files about every program, and the others."""
    every = tuple(program for program in programs() if program.every)
    return every, tuple(program for program in programs() if not program.every)


def _any_matches(patterns: Sequence[str], words: Sequence[str]) -> bool:
    return any(matches(pattern, word) for pattern in patterns for word in words)


def _names(seen: _Seen) -> Iterator[str]:
    """The executable's name and the command's; of a busybox only that of the program in it."""
    commands = [_base(word.partition(" ")[0]) for word in seen.argv[:2]]
    if seen.exe not in _MANY_IN_ONE:
        yield seen.exe
        yield from commands[:1]
        return
    yield from commands[1:] if commands[:1] == [seen.exe] else commands[:1]


def _argument(rule: Rule, program: Program, seen: _Seen) -> str | None:
    """The argument that matches the rule: the last one for amounts, because later ones override.
    Empty if the rule wants none; None if there is no match."""
    if rule.without:
        if not seen.whole:
            return None
        if any(matches(pattern, word) for pattern in rule.without for word in seen.argv):
            return None
    if not rule.argument:
        return ""
    if AMOUNT not in rule.argument:
        return next((word for word in seen.argv if matches(rule.argument, word)), None)
    prefix = rule.argument.removesuffix(AMOUNT)
    found = [word for word in seen.argv if word.startswith(prefix)]
    amount = amount_of(found[-1].removeprefix(prefix), program.unit) if found else None
    if amount is None or seen.limit is None:
        return None
    return found[-1] if (amount > seen.limit) == (rule.limit == "above") else None


def _holds(rule: Rule, verdict_id: str, seen: _Seen) -> bool:
    return (
        (not rule.verdicts or verdict_id in rule.verdicts)
        and (not rule.codes or seen.code in rule.codes)
        and (not rule.signals or not seen.signals.isdisjoint(rule.signals))
        and (not rule.reasons or not seen.reasons.isdisjoint(rule.reasons))
    )
