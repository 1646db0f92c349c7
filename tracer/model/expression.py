# SPDX-License-Identifier: Apache-2.0
"""Conditions on events: `oom`, `signal:KILL`, `exit:code!=0`, or any comparison of an event's keys
(docs/events.md), such as `kind == "exit" and process.comm == "nginx"`.

The syntax is a part of Python's: comparisons, `and`, `or`, `not`, dotted names and constants.
Nothing is ever executed. A key that an event lacks is null. A comparison of values that cannot be
compared is false.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from tracer.model.errors import UsageError

MAX_LENGTH = 1000
Values = Mapping[str, Any]
_Evaluate = Callable[[Values], Any]

_CONSTANTS = {"true": True, "false": False, "null": None}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


class Condition:
    """A compiled condition. Raises `UsageError` if the words are none. `kind` is the only kind of
    event for which it can be true, if that is known. `shorthands` turn the words after a kind's
    colon into a condition."""

    def __init__(self, words: str, shorthands: Mapping[str, Callable[[str], str]]) -> None:
        found = re.fullmatch(r"(?P<kind>[a-z_]+)(?::(?P<rest>.*))?", words, re.DOTALL)
        self.kind = found["kind"] if found else None
        condition = words
        if found and self.kind not in shorthands:
            raise UsageError(
                f"no event is of kind {self.kind!r}", f"the kinds are {', '.join(shorthands)}"
            )
        if found:
            rest = found["rest"]
            condition = "true" if rest is None else shorthands[found["kind"]](rest)
        self._holds = _compile(condition)

    def holds(self, values: Values) -> bool:
        """`values` are an event's JSON."""
        return (self.kind is None or values["kind"] == self.kind) and bool(self._holds(values))


def _compile(words: str) -> _Evaluate:
    try:
        if len(words) > MAX_LENGTH:
            raise ValueError
        return _build(ast.parse(words.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"{words[:80]!r} is no condition",
            "give a kind, signal:KILL, exit:code!=0, or compare keys of docs/events.md",
        ) from error


def _build(node: ast.expr) -> _Evaluate:
    if isinstance(node, ast.BoolOp):
        parts = [_build(value) for value in node.values]
        every = isinstance(node.op, ast.And)
        return lambda values: (all if every else any)(part(values) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _build(node.operand)
        return lambda values: not inner(values)
    if isinstance(node, ast.Compare):
        return _comparison(node)
    if isinstance(node, ast.Name | ast.Attribute):
        path = _path(node)
        return lambda values: _look_up(values, path)
    constant = ast.literal_eval(node)
    return lambda values: constant


def _comparison(node: ast.Compare) -> _Evaluate:
    operands = [_build(operand) for operand in (node.left, *node.comparators)]
    compare = [_COMPARISONS[type(op)] for op in node.ops if type(op) in _COMPARISONS]
    if len(compare) != len(node.ops):
        raise ValueError

    def evaluate(values: Values) -> bool:
        found = [operand(values) for operand in operands]
        try:
            pairs = zip(compare, found[:-1], found[1:], strict=True)
            return all(test(one, other) for test, one, other in pairs)
        except TypeError:
            return False

    return evaluate


def _path(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*_path(node.value), node.attr]
    raise ValueError


def _look_up(values: Any, path: list[str]) -> Any:
    if len(path) == 1 and path[0] in _CONSTANTS:
        return _CONSTANTS[path[0]]
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values
