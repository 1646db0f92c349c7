# SPDX-License-Identifier: Apache-2.0
"""How the table of incidents is judged and written, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.cluster.acceptance import Outcome
from tests.cluster.incidents import ROWS, Row
from tests.cluster.scene import Seen
from tests.cluster.truth import TABLE
from tests.support.judging import Verdict

ENDED = {"reason": "OOMKilled", "exitCode": 137}
POD = {
    "metadata": {"uid": "1", "name": "web", "namespace": "shop"},
    "status": {
        "phase": "Running",
        "containerStatuses": [
            {
                "name": "app",
                "ready": False,
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ENDED},
            }
        ],
    },
}
EVENTS = [{"reason": reason, "message": "it  is", "count": 3} for reason in ("Killing", "Pulled")]
SEEN = Seen([POD], frozenset("1"), EVENTS)
OOM: Verdict = {
    "verdict": "oom_container_limit",
    "certainty": "certain",
    "sentence": "out of memory: the container's limit of 32 MiB",
    "doubts": [],
    "hints": [],
    "remedy": "raise it",
    "container": {"name": "app"},
}


def outcome(*verdicts: Verdict, failed: str = "", **row: Any) -> Outcome:
    (found,) = (each for each in ROWS if each.name == "oom")
    return Outcome(replace(found, **row), verdicts, "; ".join(SEEN.in_words()), 1.0, failed)


def test_what_kubectl_shows() -> None:
    assert outcome(OOM).shown == (
        "app: OOMKilled, exit code 137; app: CrashLoopBackOff; Killing: it is"
    )
    gone = Seen([POD], frozenset(), ())
    assert "; ".join(gone.in_words()) == "the pod is gone"
    assert gone.living == []


def test_how_often_a_container_has_ended() -> None:
    assert SEEN.ends(POD, "app") == 2
    assert SEEN.ends(POD, "other") == 0
    assert SEEN.count("Killing") == 3


def test_a_right_answer() -> None:
    assert outcome(OOM).faults == []
    assert outcome(OOM, {**OOM, "verdict": "restart_loop"}).faults == []
    assert outcome(OOM, {**OOM, "verdict": "closed_port"}, also=("closed_port",)).faults == []
    assert outcome(verdict=None).faults == []


@pytest.mark.parametrize(
    ("changed", "row", "fault"),
    [
        ({"verdict": "exited"}, {}, "exited is said, and it is oom_container_limit"),
        ({"certainty": "likely"}, {}, "is called likely"),
        ({"sentence": "32 MiB"}, {}, 'does not say "container\'s"'),
        ({"doubts": ["shared by all"]}, {}, "says 'shared by all'"),
        ({"container": {"name": "side"}}, {}, "speaks of container side"),
        ({}, {"loop": True}, "it is not told as a loop"),
        ({}, {"verdict": None}, "oom_container_limit is said, and it is nothing"),
        ({}, {"kubectl": ("Evicted",)}, "kubectl does not show 'Evicted'"),
    ],
)
def test_a_wrong_answer(changed: Verdict, row: dict[str, Any], fault: str) -> None:
    assert fault in outcome({**OOM, **changed}, **row).faults


def test_no_answer() -> None:
    assert outcome().faults == ["oom_container_limit is not said"]
    assert outcome(failed="no node").faults == ["could not be staged: no node"]


def test_only_what_is_called_certain_is_certainly_wrong() -> None:
    exited = {**OOM, "verdict": "exited"}
    assert outcome(OOM, exited).certainly_wrong
    assert not outcome(OOM, {**exited, "certainty": "likely"}).certainly_wrong
    assert not outcome(OOM).certainly_wrong


def test_the_table() -> None:
    wrong = outcome({**OOM, "sentence": "a | b"})
    part = TABLE.part
    document = f"before\n{part.begin}\nold\n{part.end}\nafter\n"
    text = TABLE.written(document, [outcome(OOM), wrong])
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "2 incidents, 1 not explained as expected; 0 certain verdicts" in text
    assert "**wrong**: `oom_container_limit`: `a \\| b`" in TABLE.markdown([wrong])
    beside = {**OOM, "verdict": "closed_port"}
    assert "closed_port" not in TABLE.markdown([outcome(OOM, beside, also=("closed_port",))])
    assert "closed_port" in TABLE.markdown([outcome(beside)])
    assert "nothing happened that needs" in TABLE.markdown([outcome(verdict=None)])


def test_names_of_rows_are_their_own() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert all(isinstance(row, Row) and row.kubectl for row in ROWS)
