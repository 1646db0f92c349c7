# SPDX-License-Identifier: Apache-2.0
"""Asks the agents of several nodes for their histories, and puts what they say in order of time.

Only an agent keeps a history, so no pod is made for this.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tracer.kubectl import nodes
from tracer.kubectl.arguments import Request
from tracer.kubectl.client import MAX_COMPLAINT, Kubectl
from tracer.kubectl.home import NAMESPACE, Home, agents
from tracer.kubectl.nodes import MAX_NODES, Asked
from tracer.kubectl.show import Lines
from tracer.kubectl.stream import End, Streams
from tracer.model.errors import KtraceError, NoSuchPod

if TYPE_CHECKING:
    from tracer.agent.history.table import NodeRowBody

# How many bytes of lines are kept.
MAX_KEPT = 16 << 20
# How many other lines of an agent.
MAX_SAID = 40
INTERRUPTED = 130  # ktrace's exit code there after Ctrl-C here
_OF_A_HISTORY = ("--container=", "--dir=")


class NoAgent(KtraceError):
    """The whole of it is one line."""

    def __init__(self, namespace: str) -> None:
        self.lack = f"no agent runs in namespace {namespace}"
        super().__init__(
            f"{self.lack}, and only an agent keeps a history: helm install ktrace"
            f" deploy/kubernetes/chart -n {namespace} --create-namespace;"
            " --ktrace-namespace NAME looks elsewhere"
        )


@dataclass
class Answers:
    """What the agents said. `lives` are the objects of docs/agent.md, each with its node; the
    earliest `left_out` had no room. `notes` are their other words."""

    lives: list[NodeRowBody]
    left_out: int
    problems: dict[str, KtraceError] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


def agents_of(kubectl: Kubectl, request: Request, asked: Asked) -> list[Home]:
    """The agents of the nodes in question. Raises `KtraceError` if there are none."""
    every = {home.node: home for home in agents(kubectl, request.home)}
    if not every:
        raise NoAgent(request.home or NAMESPACE)
    wanted = request.nodes or (() if request.all_nodes else asked.nodes)
    for name in wanted:
        if name not in every:
            nodes.check(kubectl, name)
            raise KtraceError(f"no agent runs on node {name}", "kubectl ktrace doctor")
    return [every[name] for name in dict.fromkeys(wanted or every)]


def ask(kubectl: Kubectl, homes: Sequence[Home], words: Sequence[str]) -> Answers:
    """The answers to `ktrace history`. That an agent knows nothing is no problem."""
    lives = _Lives()
    answers = Answers([], 0)
    for at in range(0, len(homes), MAX_NODES):
        said: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=MAX_SAID))
        streams = Streams(
            [End(kubectl, home, words, False) for home in homes[at : at + MAX_NODES]],
            lives,
            lambda node, line, said=said: said[node].append(line[:MAX_COMPLAINT]),  # type: ignore[misc]
            lambda: None,
        )
        streams.run()
        if INTERRUPTED in streams.codes.values():
            raise KeyboardInterrupt
        for node, code in streams.codes.items():
            if code not in (0, NoSuchPod.exit_code):
                answers.problems[node] = _problem(node, code, [*said[node]])
            elif code == 0:
                answers.notes += [(node, line) for line in said[node]]
    answers.lives, answers.left_out = lives.in_order(), lives.left_out
    return answers


def words_for(asked: Asked, rest: Sequence[str]) -> list[str]:
    """ktrace's words on a node."""
    chosen = [f"--namespace={namespace}" for namespace in asked.namespaces]
    return ["history", *rest, *asked.pods, *chosen]


def who_knows(kubectl: Kubectl, request: Request, nobody: NoSuchPod) -> Asked:
    """The node whose agent has seen the last end of a pod that is gone, else whose knows it. Raises
    `nobody` if none does, or if it is not the past that is asked for."""
    others = request.pods or request.labels or request.image
    if not request.target or others or request.wait or "--next" in request.rest:
        raise nobody
    try:
        asked = nodes.lived(kubectl, request)
        homes = agents_of(kubectl, request, asked)
    except KtraceError as error:
        lack = error.lack if isinstance(error, NoAgent) else error.message
        nobody.remedy = f"{nobody.remedy}; of one that is gone an agent would know, but {lack}"
        raise nobody from error
    words = [*words_for(asked, _of_history(request.rest)), "--output=json"]
    answers = ask(kubectl, homes, words)
    ends = [life for life in answers.lives if life.get("is_end")]
    harm = [life for life in answers.lives if life["verdict"]]
    known = ends or harm or answers.lives
    if not known:
        nobody.message += "; no agent's history knows of it"
        silent = [f"node {node}: {error.message}" for node, error in answers.problems.items()]
        if silent:
            nobody.message += f", but of some nodes that is not known: {'; '.join(silent[:3])}"
        raise nobody
    return replace(asked, nodes=(known[-1]["node"],))


def _of_history(rest: Sequence[str]) -> list[str]:
    """Those of the options of `why` that choose in a history."""
    chosen = [word for word in rest if word.startswith(_OF_A_HISTORY)]
    short = [at for at, word in enumerate(rest[:-1]) if word == "-c"]
    return [*chosen, *(f"--container={rest[at + 1]}" for at in short)]


def _problem(node: str, code: int, said: Sequence[str]) -> KtraceError:
    """The last error of a node's lines, with its remedy."""
    mark = "ktrace: "
    at = max((n for n, line in enumerate(said) if line.startswith(mark)), default=0)
    message, *more = said[at:] or [f"ktrace on node {node} failed without a word"]
    remedy = next((line.strip() for line in more if line.startswith("  ")), None)
    error = KtraceError(message.removeprefix(mark), remedy)
    error.exit_code = code
    return error


class _Lives:
    """A `Sink`."""

    enough = False

    def __init__(self) -> None:
        self.left_out = 0
        self._lines = Lines()
        self._kept: list[tuple[tuple[bool, str], int, int, NodeRowBody]] = []
        self._size = self._count = 0

    def in_order(self) -> list[NodeRowBody]:
        return [life for *_, life in sorted(self._kept)]

    def take(self, node: str, data: bytes) -> None:
        import orjson

        from tracer.agent.history import table

        for line in self._lines.of(node, data):
            try:
                life = orjson.loads(line)
                life["node"] = node
                table.cells(life, wide=True)  # whether it is one
                place = table.order(life)
            except (ValueError, KeyError, TypeError) as error:
                words = line[:80].decode("utf-8", "backslashreplace")
                raise KtraceError(
                    f"the agent on node {node} says what is no part of a history: {words}",
                    "is it another version than this plugin? kubectl ktrace --version",
                ) from error
            self._count += 1
            self._size += len(line)
            heapq.heappush(self._kept, (place, self._count, len(line), life))
            while self._size > MAX_KEPT:
                self._size -= heapq.heappop(self._kept)[2]
                self.left_out += 1

    def idle(self) -> None: ...

    def gone(self, node: str) -> None: ...

    def close(self) -> None: ...
