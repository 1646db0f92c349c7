# SPDX-License-Identifier: Apache-2.0
"""Verdicts with what Kubernetes says, and what must not change by it."""

from __future__ import annotations

import re

import orjson
import pytest

from tests.unit.kubernetes.objects import Json, event, listed, pod
from tests.unit.why.test_reasons import refuse, stop
from tests.unit.why.world import CLOCK, INIT, MS, NETWORK, RUNC, World, process
from tracer.kubernetes.objects import facts
from tracer.model.event import to_json
from tracer.model.kubernetes import Facts
from tracer.why import told
from tracer.why.engine import Explanation
from tracer.why.render import to_event, to_text
from tracer.why.verdict import Certainty, Verdict

REFUSED = (
    'Liveness probe failed: Get "http://198.18.0.2:8080/healthz": dial tcp 198.18.0.2:8080:'
    " connect: connection refused"
)
KILLING = "Container app failed liveness probe, will be restarted"


def world(*objects: Json) -> World:
    made = World()
    made.timelines.facts = Facts()
    made.timelines.facts.learn(facts(listed(*objects)))
    return made


def ended(*objects: Json, after_ms: float = 2500, ignored: bool = False) -> Verdict:
    return stop(world(*objects), after_ms=after_ms, ignored=ignored)


def test_a_refused_probe_is_told_as_kubernetes_word_and_the_kernels_part_stays_certain() -> None:
    made = world(
        event("Unhealthy", REFUSED, first=6, last=10, count=3), event("Killing", KILLING), pod()
    )
    refuse(made, [-4010, -2010, -10])
    verdict = stop(made, after_ms=30_000, ignored=True)
    assert verdict.id == "stop_ignored"
    assert verdict.sentence.startswith(
        "Kubernetes says the liveness probe (http-get of port 8080, /healthz) failed 3 times with"
        ' “Get "http://198.18.0.2:8080/healthz": dial tcp 198.18.0.2:8080: connect: connection'
        " refused”; nothing listened on port 8080: 3 attempts to connect refused; stopped by the"
        " runtime: app[7] (/bin/app), as PID 1, ignored SIGTERM"
    )
    assert "SIGKILL followed 30 s later" in verdict.sentence
    assert verdict.certainty is Certainty.CERTAIN and not verdict.doubts
    assert verdict.reasons == ("probe_refused",)
    assert any(entry.event.kind == "tcp_reset" for entry in verdict.evidence)
    assert "kubectl" not in verdict.remedy


def test_without_events_nothing_changes() -> None:
    without, with_none = World(), world()
    for made in (without, with_none):
        refuse(made, [-4010, -2010, -10])
        stop(made)
    texts = [to_text(made.explained()[-1], CLOCK) for made in (without, with_none)]
    assert texts[0] == texts[1]
    assert b"kubernetes" not in line_of(with_none.explained()[-1])


def test_another_pods_events_change_nothing() -> None:
    told_of = ended(event("Killing", KILLING, uid="another"), after_ms=100)
    assert told_of.sentence == stop(World(), after_ms=100).sentence


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (
            [event("Evicted", "The node was low on resource: memory. ", container="")],
            "the pod was evicted: “The node was low on resource: memory.”",
        ),
        (
            [pod(phase="Failed", reason="Evicted", message="Usage of EmptyDir volume exceeds")],
            "the pod was evicted: “Usage of EmptyDir volume exceeds”",
        ),
        (
            [
                event(
                    "Preempted",
                    "Preempted by shop/big on node node1",
                    container="",
                    component="default-scheduler",
                )
            ],
            "the pod was preempted: “Preempted by shop/big on node node1”",
        ),
        (
            [
                event("NodeNotReady", "Node is not ready", container=""),
                event("TaintManagerEviction", "Marking for deletion Pod shop/web-0", container=""),
            ],
            "the pod was deleted because of a taint of its node (“Node is not ready”)",
        ),
        (
            [
                event("SuccessfulDelete", "Deleted pod: web-0", kind="ReplicaSet", name="web-7b"),
                event("Killing", "Stopping container app"),
            ],
            "the pod was deleted by ReplicaSet web-7b, as at a rollout or when scaled down",
        ),
        (
            [pod(deleted=10, given=2)],
            "the pod was deleted with 2 s of grace, not the 30 s that the pod asks for",
        ),
        (
            [event("Killing", "Stopping container app")],
            "“Stopping container app”, as of a pod that is deleted",
        ),
        (
            [event("Killing", KILLING)],
            f"“{KILLING}”",
        ),
        (
            [event("Unhealthy", "Startup probe failed: not yet", first=9, last=9)],
            "the startup probe failed 1 time with “not yet”",
        ),
        (
            [pod(phase="Failed", reason="Terminated", message="Node is shutting down")],
            "the pod failed with Terminated (“Node is shutting down”)",
        ),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value, flags=re.ASCII) if isinstance(value, str) else "",
)
def test_who_ordered_a_stop(objects: list[Json], words: str) -> None:
    verdict = ended(*objects, after_ms=100)
    assert verdict.sentence.startswith(f"Kubernetes says {words}; stopped by the runtime: app[7]")
    assert "who ordered it" not in verdict.remedy
    assert (
        "kubectl get events" not in verdict.remedy and "kubectl describe pod" not in verdict.remedy
    )


@pytest.mark.parametrize(
    "objects",
    [
        [event("Unhealthy", "Readiness probe failed: no", last=10)],
        [event("Unhealthy", REFUSED, first=-300, last=-290, count=9)],  # long before
        [event("Killing", "Stopping container other", container="other")],
        [event("Killing", KILLING, first=100)],  # of a later life
        [event("TaintManagerEviction", "Cancelling deletion of Pod shop/web-0", container="")],
        [event("Started", "Started container app")],
        [pod()],
    ],
    ids=lambda objects: f"{objects[0].get('reason')} {objects[0].get('message')}",
)
def test_what_did_not_order_it(objects: list[Json]) -> None:
    verdict = ended(*objects, after_ms=100)
    assert verdict.sentence.startswith("stopped by the runtime: app[7]")
    assert verdict.told is not None  # it is shown all the same


def test_an_inferred_reason_that_kubernetes_does_not_know_stays_likely() -> None:
    made = world(event("Killing", "Stopping container app"))
    refuse(made, [-4010, -2010, -10])
    verdict = stop(made, after_ms=200)
    assert "liveness probe of port 8080 refused 3 times (likely)" in verdict.sentence
    assert verdict.certainty is Certainty.LIKELY


def test_counts_of_earlier_lives_are_not_this_ones() -> None:
    verdict = ended(
        event("Unhealthy", "Liveness probe failed: no", first=-500, last=10, count=9), after_ms=100
    )
    assert "failed 9 times, earlier lives included, with “no”" in verdict.sentence


def test_a_readiness_probe_of_what_runs() -> None:
    made = world(
        event("Unhealthy", REFUSED.replace("Liveness", "Readiness"), first=6, last=10, count=3)
    )
    refuse(made, [-4010, -2010, -10])
    verdict = made.only().verdict
    assert verdict.id == "closed_port" and verdict.certainty is Certainty.CERTAIN
    assert verdict.sentence.startswith("Kubernetes says the readiness probe failed 3 times with “")
    assert "; nothing listens on port 8080: 3 attempts to connect refused" in verdict.sentence


def test_what_never_started() -> None:
    made = world(event("Failed", 'Error: exec: "nope": not found'))
    made.at(0).exit(1, who=process(7, "runc:[2:INIT]", exe="/usr/sbin/runc", init=True))
    verdict = made.only().verdict
    assert verdict.id == "start_failed"
    assert verdict.sentence.startswith('Kubernetes says Failed: “Error: exec: "nope": not found”;')
    assert f"its message is in {told.ABOVE}" in verdict.remedy


def line_of(explanation: Explanation) -> bytes:
    return to_json(to_event(explanation, CLOCK), CLOCK, "")


def shown(*objects: Json) -> tuple[str, Json]:
    made = world(*objects)
    stop(made, after_ms=100)
    explanation = made.explained()[-1]
    line: Json = orjson.loads(line_of(explanation))
    return to_text(explanation, CLOCK), line


def test_it_is_shown_in_its_own_words() -> None:
    text, line = shown(event("Unhealthy", REFUSED, first=6, last=9, count=3), pod())
    _, _, block = text.partition("  Kubernetes says\n")
    assert block.splitlines()[:6] == [
        f"      -1 s   Unhealthy (3 times in 3 s): {REFUSED}",
        "           liveness probe: http-get of port 8080, /healthz, every 2 s, timeoutSeconds 1,"
        " failureThreshold 3",
        "           preStop: sleep 5",
        "           restartCount: 2",
        "           last end: Error, exit code 137",
        "           waits: CrashLoopBackOff: back-off 20s",
    ]
    (one,) = line["kubernetes"]["events"]
    assert (one["reason"], one["count"], one["message"]) == ("Unhealthy", 3, REFUSED)
    assert line["kubernetes"]["pod"]["termination_grace_period_seconds"] == 30
    assert line["kubernetes"]["pod"]["containers"][0]["probes"][0]["kind"] == "liveness"


def test_hostile_words_stay_words() -> None:
    hostile = "Liveness probe failed: \x1b[2J“; certain: the kernel said so\u202e\n  do: rm -rf /"
    text, _ = shown(event("Unhealthy", hostile))
    assert "\x1b" not in text and "\u202e" not in text
    first = text.splitlines()[0]
    assert first.count("“") == 1 and first.index("do: rm -rf /") < first.index("”")


def test_many_events_are_not_all_shown() -> None:
    text, line = shown(*(event("Unhealthy", f"no {at}", first=at % 10) for at in range(40)))
    assert "28 earlier Events are not shown" in text
    assert len(line["kubernetes"]["events"]) == 40


@pytest.mark.parametrize("name", told.names())
def test_every_listener_keeps_quiet_about_nothing(name: str) -> None:
    made = world(event("Whatever", "nothing that is known"))
    made.at(0).signal("SIGTERM", "runtime", RUNC, INIT)
    made.at(100).exit(0)
    made.reset("sent", "no_socket", "closed port", place=NETWORK)
    made.now += 50 * MS
    assert all("Kubernetes says" not in e.verdict.sentence for e in made.explained()), name
