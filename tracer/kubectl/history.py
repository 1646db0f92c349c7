# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace history`: what ended or was hurt, of one node or in order of time of all, and
pieces of the histories as recordings here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.kubectl import agents, nodes
from tracer.kubectl.agents import Answers
from tracer.kubectl.arguments import Request
from tracer.kubectl.client import Kubectl
from tracer.kubectl.home import Home
from tracer.kubectl.session import check_recordings, interruptible, tell, teller
from tracer.kubectl.stream import End, Streams
from tracer.model.errors import NoSuchPod, UsageError

if TYPE_CHECKING:
    from tracer.agent.history.table import NodeRowBody

CUT = "--cut="


def run(request: Request) -> int:
    """Returns ktrace's exit code; of several nodes the highest, but a node that knows nothing of
    the pod does not count if another does."""
    _check(request)
    kubectl = Kubectl(request.kubectl)
    with interruptible():
        asked = nodes.lived(kubectl, request)
        homes = agents.agents_of(kubectl, request, asked)
        words = agents.words_for(asked, request.rest)
        if _is_cut(request):
            return _cut(kubectl, homes, words, Path(request.output or ""))
        answers = agents.ask(kubectl, homes, [*words, "--output=json"])
    return _show(request, answers, several=len(homes) > 1)


def _check(request: Request) -> None:
    """Checks what needs no cluster."""
    from tracer.agent.history.table import FORMS

    if request.pods or request.labels:
        raise UsageError(
            "a history is asked for one POD, and knows no labels",
            "a glob or a workload is one, too: kubectl ktrace history 'shop/web-*'",
        )
    if request.image:
        raise UsageError("--image makes a pod that has no history", "the agent's pod is asked")
    strange = {
        "--duration": request.duration,
        "--count": request.count,
        "--ready-file": request.ready_file,
        "--wait": request.wait,
    }
    for option, value in strange.items():
        if value:
            raise UsageError(f"No such option: {option}", "ktrace history --help")
    if _is_cut(request):
        if not request.output or request.output in FORMS:
            raise UsageError("--cut needs a file", "add -o incident.ktrace")
    elif request.output not in (None, *FORMS):
        raise UsageError(
            f"-o {request.output!r} is none of {', '.join(FORMS)}", "a FILE needs --cut"
        )


def _is_cut(request: Request) -> bool:
    return any(word.startswith(CUT) for word in request.rest)


def _show(request: Request, answers: Answers, *, several: bool) -> int:
    for node, line in answers.notes:
        tell(f"node {node}: {line.removeprefix('ktrace: ')}")
    problems = answers.problems
    if problems and not several:
        raise next(iter(problems.values()))
    for node, problem in problems.items():
        tell(f"without node {node}: {problem.message}")
    if request.target and not answers.lives:
        if problems:
            return max(problem.exit_code for problem in problems.values())
        raise NoSuchPod(
            f"{'no history' if several else 'the history'} knows"
            f" {'anything' if several else 'nothing'} of {request.target!r}",
            "kubectl ktrace history lists what ended or was hurt; --since reaches back only so"
            " far, -n NAMESPACE or -A looks elsewhere",
        )
    if request.output == "json":
        _print_json(answers.lives)
    else:
        _print_table(request, answers.lives, several)
    if answers.left_out:
        tell(f"{answers.left_out} earlier ones are left out: choose with --since, -n or --node")
    return max((problem.exit_code for problem in problems.values()), default=0)


def _print_json(lives: Sequence[NodeRowBody]) -> None:
    import orjson

    for life in lives:
        sys.stdout.buffer.write(orjson.dumps(life, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def _print_table(request: Request, lives: Sequence[NodeRowBody], several: bool) -> None:
    from tracer.agent.history.table import COLUMNS, MORE_COLUMNS, cells
    from tracer.outputs import listing
    from tracer.outputs.listing import Column

    wide = request.output == "wide"
    columns = [*COLUMNS, *(MORE_COLUMNS if wide else ())]
    rows = [cells(life, wide) for life in lives]
    if several:
        columns.insert(1, Column("NODE", 8, 0, 30))
        rows = [[row[0], life["node"], *row[1:]] for row, life in zip(rows, lives, strict=True)]
    listing.show(columns, rows, wide=wide, headers=request.headers)
    sys.stdout.flush()


def _cut(kubectl: Kubectl, homes: Sequence[Home], words: Sequence[str], out: Path) -> int:
    """A file for each node, and for each session of its agent."""
    from tracer.kubectl.pieces import Pieces

    asked = nodes.bounded(nodes.Asked(tuple(home.node for home in homes), (), ()))
    pieces = Pieces(asked.nodes, out)
    ends = [End(kubectl, home, [*words, "--output=-"], False) for home in homes]
    code = Streams(ends, pieces, teller(asked), lambda: None).run()
    return check_recordings(chain.from_iterable(pieces.paths.values())) or code
