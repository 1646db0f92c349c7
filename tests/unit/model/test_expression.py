# SPDX-License-Identifier: Apache-2.0
"""Conditions on events: what they mean, and that nothing can be run through them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import probes
from tracer.model.errors import UsageError
from tracer.model.expression import Condition

SHORTHANDS = {
    kind: probe.shorthand for probe in map(probes.get, probes.names()) for kind in probe.whose
}
KILLED = {
    "kind": "exit",
    "exit_code": None,
    "signal": {"number": 9, "name": "SIGKILL"},
    "process": {"comm": "nginx", "uid": 0, "pod": None},
    "pod": {"name": "web-0", "labels": {"app": "web"}},
}
SIGNAL = {"kind": "signal", "signal": {"number": 15, "name": "SIGTERM"}}


@pytest.mark.parametrize(
    ("words", "event", "holds"),
    [
        ("exit", KILLED, True),
        ("exit", SIGNAL, False),
        ("oom", KILLED, False),
        ("exit:code!=0", KILLED, True),
        ("exit:code!=0", {"kind": "exit", "exit_code": 0}, False),
        ("exit:code>2", {"kind": "exit", "exit_code": 3}, True),
        ("exit:code>2", KILLED, False),
        ("exit:code", {"kind": "exit", "exit_code": 3}, True),
        ("signal:TERM", SIGNAL, True),
        ("signal:KILL,SIGTERM", SIGNAL, True),
        ("signal:KILL", SIGNAL, False),
        ("signal:TERM", {**SIGNAL, "kind": "exit"}, False),
        ('process.comm == "nginx" and not process.uid', KILLED, True),
        ('kind in ("oom", "exit")', KILLED, True),
        ('kind not in ("oom", "exit")', KILLED, False),
        ('pod.labels.app == "web" or true', KILLED, True),
        ("process.pod.name == null", KILLED, True),
        ("no.such.key", KILLED, False),
        ("-1 < process.uid <= 5", KILLED, True),
        ("process.comm < 5", KILLED, False),
        ("5 in process.comm", KILLED, False),
        ("5 in signal.number", KILLED, False),
        ("exit_code == false", KILLED, False),
    ],
)
def test_what_a_condition_means(words: str, event: dict[str, Any], holds: bool) -> None:
    assert Condition(words, SHORTHANDS).holds(event) is holds


@pytest.mark.parametrize(
    "words",
    [
        *("", "nope", "exit:", "signal:NOPE", "a b", "a =", "1 +", "kind is null"),
        *("__import__('os')", "kind()", "a[0]", "lambda: 1", "a if b else c", "f'{a}'", "9**9**9"),
        *("[x for x in kind]", "(a := 1)", "a.b().c", "await a", "*a", "not " * 400 + "a"),
        *("(" * 500, "a" * 2000, "\0"),
    ],
)
def test_what_is_no_condition(words: str) -> None:
    with pytest.raises(UsageError) as raised:
        Condition(words, SHORTHANDS)
    assert raised.value.exit_code == 2
    assert raised.value.remedy


@given(st.text(alphabet="ab.()[]!=<>\"' andornotkid:0", max_size=30))
def test_any_words_are_a_condition_or_an_error_of_ours(words: str) -> None:
    try:
        condition = Condition(words, SHORTHANDS)
    except UsageError:
        return
    assert condition.holds(KILLED) in (True, False)
