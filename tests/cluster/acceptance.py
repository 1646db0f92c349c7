# SPDX-License-Identifier: Apache-2.0
"""Stages the rows of the table in a cluster, records what happens there, and judges what ktrace
says of it.

Most of an incident is waiting, so all rows that do not disturb each other happen side by side, in
one recording that is explained at its end. The others have the node to themselves, one after
another.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from typing_extensions import Self

from tests.cluster.bed import Bed
from tests.cluster.incidents import NAMESPACE, Row
from tests.cluster.scene import Scene, Seen, View
from tests.support import judging
from tests.support.judging import Verdict
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.wait import wait_for

Say = Callable[[str], None]

# A kubelet tells the API server and looks at volumes and files slowly, to spare them.
HURRY = {
    "eventRecordQPS": 0,
    "kubeAPIQPS": 50,
    "kubeAPIBurst": 100,
    "volumeStatsAggPeriod": "10s",
    "fileCheckFrequency": "2s",
    "evictionPressureTransitionPeriod": "1s",
}


class Outcome(judging.Outcome[Row]):
    """What `kubectl` shows has to be right as well."""

    @property
    def faults(self) -> list[str]:
        return super().faults if self.failed else [*self._kubectl_faults(), *super().faults]

    def _kubectl_faults(self) -> Iterator[str]:
        for pattern in self.row.kubectl:
            if not re.search(pattern, self.shown):
                yield f"kubectl does not show {pattern!r}"


def stage(bed: Bed, rows: Sequence[Row], say: Say) -> Iterator[Outcome]:
    """As they become known."""
    together = [row for row in rows if not row.alone]
    phases = [together] * bool(together) + [[row] for row in rows if row.alone]
    bed.kubectl("create", "namespace", NAMESPACE)
    try:
        with bed.kubelet_with(**HURRY), View(bed) as view:
            wait_for("the node to take pods", lambda: _takes_pods(bed), 60)
            for phase in phases:
                say(f"staging {', '.join(row.name for row in phase)}")
                yield from _stage_all(bed, view, phase, say)
                _clear(bed, view, phase)
    finally:
        bed.kubectl("delete", "namespace", NAMESPACE, check=False, timeout=120)


def _takes_pods(bed: Bed) -> bool:
    """One that was not ready is tainted for a while."""
    return not bed.get("node", bed.node)["spec"].get("taints")


def _stage_all(bed: Bed, view: View, rows: Sequence[Row], say: Say) -> list[Outcome]:
    scenes = {row: Scene(bed, view, row.namespace, row.name) for row in rows}
    with TemporaryDirectory(prefix="ktrace-test-") as scratch:
        file = Path(scratch, "node.ktrace")
        with (
            Ktrace("record", output=str(file), inside=bed.enter) as ktrace,
            _Live(bed, [row for row in rows if row.live]) as live,
        ):
            began = time.monotonic()
            _apply(bed, rows)
            with ThreadPoolExecutor(len(rows)) as pool:
                staged = {row: pool.submit(_run, row, scenes[row]) for row in rows}
            told = live.told()
            ktrace.signal(signal.SIGINT)
            assert ktrace.exit_code() == 0, ktrace.stderr
            if ktrace.summary.lost:  # a verdict that could be wrong for it says so
                say(f"{ktrace.summary.lost} events were lost: {ktrace.stderr}")
        recorded = _explained(file)
    return [
        _outcome(row, scenes[row].seen, told.get(row, recorded), staged[row], began) for row in rows
    ]


class _Live:
    """A ktrace for each of these rows, which waits for its pod."""

    def __init__(self, bed: Bed, rows: Sequence[Row]) -> None:
        self._watching = {
            row: Ktrace(
                *("why", f"{row.namespace}/{row.name}", "--wait", "--duration", "110s"),
                inside=bed.enter,
            )
            for row in rows
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for ktrace in self._watching.values():
            self._stack.enter_context(ktrace)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def told(self) -> dict[Row, list[Verdict]]:
        return {row: ktrace.wait() for row, ktrace in self._watching.items()}


def _apply(bed: Bed, rows: Sequence[Row]) -> None:
    manifests = [m for row in rows if not row.static for m in row.manifests]
    if manifests:
        bed.apply(manifests)
    for row in rows:
        if row.static:
            _static_file(bed, row).write_text(json.dumps(row.manifests[0]))


def _static_file(bed: Bed, row: Row) -> Path:
    return bed.manifests / f"{row.name}.json"


def _run(row: Row, scene: Scene) -> tuple[str, float]:
    """What was measured, and when it was over."""
    measured = row.does(scene)
    scene.wait_for("what it waits for", row.over)
    return str(measured) if isinstance(measured, str) else "", time.monotonic()


def _explained(file: Path) -> list[Verdict]:
    explained = ktrace_once("why", str(file), "-o", "json")
    assert explained.returncode == 0, explained.stderr
    return [json.loads(line) for line in explained.stdout.splitlines()]


def _outcome(
    row: Row,
    seen: Seen,
    verdicts: Sequence[Verdict],
    staged: Future[tuple[str, float]],
    began: float,
) -> Outcome:
    error = staged.exception()
    measured, ended = ("", began) if error else staged.result()
    names = {pod["metadata"]["name"] for pod in seen.pods}
    its = [
        verdict
        for verdict in verdicts
        if (pod := verdict["pod"]) and pod["namespace"] == row.namespace and pod["name"] in names
    ]
    shown = "; ".join(seen.in_words())
    return Outcome(row, its, shown, ended - began, str(error or ""), measured)


def _clear(bed: Bed, view: View, rows: Sequence[Row]) -> None:
    """So that nothing of them is in the way of the next ones."""
    for row in rows:
        if row.static:
            _static_file(bed, row).unlink()
    at_once = ("--all", "--force", "--grace-period=0", "--wait=false")
    bed.kubectl("-n", NAMESPACE, "delete", "deployments,jobs,pods", *at_once)
    for row in rows:
        Scene(bed, view, row.namespace, row.name).wait_for(
            "its pods to go", lambda seen: not seen.living
        )
