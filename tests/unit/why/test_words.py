# SPDX-License-Identifier: Apache-2.0
"""Words for programs: what is said of which command line, and what is not; and that a command line
of any kind is looked at in bounded time."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.why.world import CLOCK, INIT, MIB, RUNC, World
from tracer.model.event import Process
from tracer.why import words
from tracer.why.render import to_event, to_text
from tracer.why.verdict import Certainty, Verdict

JAVA = "/usr/lib/jvm/java-17/bin/java"
NODE = "/usr/local/bin/node"
SH = "/usr/bin/dash"
BUSYBOX = "/bin/busybox"


def program(exe: str, *argv: str) -> Process:
    return replace(INIT, exe=exe, argv=list(argv) or [exe])


def ended(first: Process, code: int) -> Verdict:
    world = World()
    world.exit(code, who=first)
    return world.only().verdict


def out_of_memory(first: Process, limit: int = 128 * MIB) -> Verdict:
    world = World()
    world.oom(first, limit=limit, anon=limit)
    world.signal("SIGKILL", "kernel", target=first, code="SI_KERNEL")
    world.exit(by=9, who=first)
    return world.only().verdict


def stopped(first: Process, result: str = "delivered", code: int | None = 0) -> Verdict:
    world = World()
    world.at(-3000).signal("SIGTERM", "runtime", RUNC, first, result=result)
    if code is None:
        world.at(0).signal("SIGKILL", "runtime", RUNC, first)
    world.at(1).exit(code, None if code is not None else 9, who=first)
    return world.only().verdict


def faulted(first: Process, name: str, number: int, code: str) -> Verdict:
    world = World()
    world.signal(name, "kernel", target=first, code=code)
    world.exit(by=number, who=first)
    return world.only().verdict


@pytest.mark.parametrize(
    ("verdict", "hint"),
    [
        (out_of_memory(program(JAVA, "java", "-Xmx1g", "Main")), "-Xmx1g is above the limit of"),
        (out_of_memory(program(JAVA, "java", "-Xmx131073k")), "is above the limit of 128 MiB"),
        (out_of_memory(program(JAVA, "java", "-Xmx128m")), "-Xmx128m is below the limit of 128"),
        (out_of_memory(program(JAVA, "java", "-Xmx4g", "-Xmx64M")), "-Xmx64M is below"),
        (out_of_memory(program(JAVA, "java", "Main")), "a quarter of the limit"),
        (
            out_of_memory(program(NODE, "node", "--max-old-space-size=4096", "x.js")),
            "4096 is above",
        ),
        (out_of_memory(program(NODE, "node", "x.js")), "NODE_OPTIONS"),
        (ended(program(JAVA, "java", "-XX:+ExitOnOutOfMemoryError"), 3), "OutOfMemoryError"),
        (stopped(program(JAVA), code=143), "after SIGTERM"),
        (ended(program("/usr/bin/timeout", "timeout", "5", "x"), 124), "time was up"),
        (ended(program("/server"), 2), "in Go, 2 is a panic"),
        (ended(program("/server"), 101), "in Rust, 101 is a panic"),
        (ended(program("/usr/bin/python3.11", "python3", "x.py"), 2), "argparse"),
        (ended(program("/usr/bin/python3.11", "python3", "/usr/local/bin/gunicorn"), 3), "workers"),
        (stopped(program("/usr/sbin/nginx", "nginx: master process nginx")), "fast stop"),
        (stopped(program("/usr/sbin/php-fpm8.2")), "SIGQUIT lets them end"),
        (stopped(program("/usr/bin/tini", "tini", "x"), code=None), "to its child, and to nobody"),
        (stopped(program("/usr/bin/dumb-init", "dumb-init"), code=None), "its child's session"),
        (stopped(program(NODE, "node", "/usr/bin/npm", "start"), code=None), "below a shell"),
        (stopped(program(SH, "sh", "-c", "x"), "ignored", None), "passes no signal on"),
        (stopped(program(BUSYBOX, "/bin/sh", "-c", "x"), "ignored", None), "passes no signal on"),
        (stopped(program(BUSYBOX, "busybox", "sh", "x"), "ignored", None), "passes no signal on"),
        (stopped(program("/usr/bin/uwsgi-core", "uwsgi"), "ignored", None), "--die-on-term"),
        (stopped(program("/usr/lib/postgresql/15/bin/postgres"), code=None), "smart stop"),
        (faulted(program("/server"), "SIGBUS", 7, "BUS_ADRERR"), "/dev/shm has 64 MiB"),
        (ended(program("/usr/bin/php8.2", "php", "job.php"), 255), "bytes exhausted"),
        (ended(program("/usr/bin/perl", "perl", "job.pl"), 2), "errno"),
        (ended(program("/usr/bin/ruby3.1", "ruby", "job.rb"), 1), "rescues"),
        (ended(program("/usr/lib/postgresql/15/bin/psql", "psql"), 2), "no connection"),
        (ended(program("/usr/lib/postgresql/15/bin/pg_isready"), 2), "no server answers"),
        (ended(program("/usr/bin/dumb-init", "dumb-init", "x"), 2), "is not there"),
        (ended(program("/usr/bin/uwsgi-core", "uwsgi"), 22), "load the application"),
        (
            ended(program(JAVA, "java", "-XX:OnOutOfMemoryError=kill -9 %p"), 137),
            "OnOutOfMemoryError=kill -9 %p runs that command",
        ),
        (stopped(program(SH, "sh", "-c", "x | tee y"), "ignored", None), "a pipe keeps its shell"),
    ],
)
def test_what_is_said(verdict: Verdict, hint: str) -> None:
    (said, *_) = verdict.hints
    assert hint in said


@pytest.mark.parametrize(
    "verdict",
    [
        ended(program(JAVA, "java", "-XX:+ExitOnOutOfMemoryError"), 0),
        ended(program(JAVA, "java", "Main"), 3),  # it chose that itself
        ended(program("/usr/bin/python3.11", "python3", "-XX:+ExitOnOutOfMemoryError"), 3),
        ended(program("/server"), 124),
        ended(program("/usr/bin/ruby", "ruby", "java"), 0),
        stopped(program("/usr/bin/uwsgi-core", "uwsgi", "--die-on-term"), "ignored", None),
        stopped(program("/usr/bin/redis-server")),
        stopped(program(BUSYBOX, "sleep", "1000"), "ignored", None),
        stopped(program(BUSYBOX, "busybox", "httpd", "-f"), "ignored", None),
        stopped(program(BUSYBOX), "ignored", None),
        ended(program("/usr/bin/php8.2", "php", "job.php"), 1),
        ended(program("/usr/sbin/php-fpm8.2", "php-fpm8.2"), 255),
        faulted(program("/server"), "SIGBUS", 7, "BUS_ADRALN"),
        faulted(program("/server"), "SIGSEGV", 11, "SEGV_MAPERR"),
    ],
)
def test_what_is_not_said(verdict: Verdict) -> None:
    assert verdict.hints == ()


def test_what_cannot_be_known_is_not_said() -> None:
    heap = "-Xmx1g"
    assert out_of_memory(replace(program(JAVA), argv=None)).hints == ()
    assert out_of_memory(program(JAVA, "java", heap, "x" * 2000)).hints  # it was seen
    assert out_of_memory(program(JAVA, "java", "x" * 2000)).hints == ()  # it may be cut off
    unlimited = World()
    unlimited.oom(program(JAVA, "java", heap), limit=None, limit_of=None, scope=None)
    unlimited.exit(by=9, who=program(JAVA, "java", heap))
    assert unlimited.only().verdict.hints == ()


def test_words_decide_nothing() -> None:
    """A name is anybody's choice: the verdict and how sure it is are as without it."""
    java, other = (out_of_memory(program(exe, "x", "-Xmx1g")) for exe in (JAVA, "/server"))
    assert (java.id, java.certainty, java.doubts) == (other.id, other.certainty, other.doubts)
    assert java.certainty is Certainty.CERTAIN
    assert java.sentence.replace(JAVA, "/server") == other.sentence
    assert java.remedy != other.remedy


def test_a_remedy_that_fits_keeps_who_ordered_it() -> None:
    remedy = stopped(program("/usr/sbin/nginx")).remedy
    assert remedy.startswith("for an orderly end use STOPSIGNAL SIGQUIT")
    assert "who ordered it" in remedy


def test_a_hint_is_shown() -> None:
    world = World()
    world.exit(2, who=program("/server"))
    explanation = world.only()
    (hint,) = explanation.verdict.hints
    assert f"  hint: {hint}\n  do: " in to_text(explanation, CLOCK)
    assert to_event(explanation, CLOCK).body["hints"] == [hint]


def test_an_argument_is_shown_as_it_is() -> None:
    """What is filled in may look like a place to fill, and is cut."""
    says = {"argument": "-*", "says": "{argument} and {limit}"}
    (rule,) = words.program_of({"names": ["x"], "rules": [says]}).rules
    assert rule.says == "{argument} and {limit}"
    shown = words._filled(rule.says, {"{argument}": "-{limit}", "{limit}": "1 MiB"})
    assert shown == "-{limit} and 1 MiB"


# The table itself


def test_every_file_means_something() -> None:
    ids = (Path(words.__file__).parents[3] / "docs" / "verdicts.md").read_text()
    assert len(words.programs()) == len(list(Path(words.__file__).parent.glob("*.toml")))
    for one in words.programs():
        assert one.rules
        assert bool(one.names or one.scripts) is not (one.fallback or one.every)
        for rule in one.rules:
            assert all(f"`{verdict}`" in ids for verdict in rule.verdicts), rule.verdicts
            filled = words._filled(rule.says + rule.do, {"{argument}": "a", "{limit}": "b"})
            assert "{" not in filled
            assert "certain" not in filled
            assert ("{argument}" in rule.says + rule.do) <= bool(rule.argument)
            assert bool(rule.limit) is rule.argument.endswith(words.AMOUNT)


def test_a_key_that_means_nothing_is_an_error() -> None:
    with pytest.raises(TypeError):
        words.program_of({"names": ["x"], "rules": [{"says": "y", "verdict": ["exited"]}]})


# Bounded time


@given(
    st.text("ab*", max_size=8),
    st.text("ab", max_size=30),
)
def test_patterns_are_matched_as_by_fnmatch(pattern: str, word: str) -> None:
    assert words.matches(pattern, word) is fnmatch.fnmatchcase(word, pattern)


class Counted(str):
    """Counts how often it is searched."""

    searches = 0

    def find(self, *where: object) -> int:
        type(self).searches += 1
        return super().find(*where)  # type: ignore[arg-type]


@given(st.text("ab*", max_size=40), st.text("ab", max_size=400))
def test_each_part_is_looked_for_once(pattern: str, word: str) -> None:
    Counted.searches = 0
    words.matches(pattern, Counted(word))
    assert Counted.searches <= pattern.count("*")


@given(st.lists(st.text(max_size=300), max_size=200), st.text(max_size=600))
def test_of_any_command_line_a_bounded_part_is_looked_at(argv: Sequence[str], exe: str) -> None:
    looked: list[str] = []

    def spy(pattern: str, word: str) -> bool:
        looked.append(word)
        return matches(pattern, word)

    matches, words.matches = words.matches, spy
    try:
        verdict = ended(replace(INIT, exe=exe, argv=list(argv)), 2)
    finally:
        words.matches = matches
    patterns = sum(
        len(one.names) + len(one.scripts) + sum(len(rule.without) + 1 for rule in one.rules)
        for one in words.programs()
    )
    assert len(looked) <= 2 * patterns * words.MAX_WORDS
    assert all(len(word) <= words.MAX_LENGTH for word in looked)
    assert all(len(hint) < 1000 for hint in verdict.hints)
