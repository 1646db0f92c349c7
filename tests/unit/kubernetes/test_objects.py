# SPDX-License-Identifier: Apache-2.0
"""Objects of Kubernetes' API, in order and in disorder."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.kubernetes.objects import event, listed, pod
from tests.unit.why.world import UID
from tracer.kubernetes.objects import MAX_CONTAINERS, MAX_MESSAGE, fact_of, facts
from tracer.model.kubernetes import COMPONENT, MAX_OF_POD, Facts, KubeEvent, KubePod

KILLING = "Container app failed liveness probe, will be restarted"


def test_an_event() -> None:
    (fact,) = facts(listed(event("Unhealthy", "no", first=4, last=8, count=3)))
    assert isinstance(fact, KubeEvent)
    assert (fact.reason, fact.message, fact.count) == ("Unhealthy", "no", 3)
    assert (fact.namespace, fact.pod, fact.object_uid) == ("shop", "web-0", UID)
    assert fact.container == "app" and fact.component == "kubelet"
    assert fact.last_ns - fact.first_ns == 4_000_000_000


def test_an_event_of_the_newer_api() -> None:
    told = {
        "kind": "Event",
        "eventTime": "2023-11-14T22:13:24.123456Z",
        "metadata": {"uid": "e1", "namespace": "shop"},
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "web-0", "uid": UID},
        "reason": "Preempted",
        "note": "Preempted by x/y on node node1",
        "reportingComponent": "default-scheduler",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "series": {"count": 5, "lastObservedTime": "2023-11-14T22:13:30.000001Z"},
    }
    fact = fact_of(told)
    assert isinstance(fact, KubeEvent)
    assert (fact.message, fact.count, fact.component) == (told["note"], 5, "default-scheduler")
    assert fact.last_ns - fact.first_ns == 6_000_000_000


@pytest.mark.parametrize("key", ["source", "reportingComponent"])
def test_events_of_ktrace_are_not_kubernetes_word(key: str) -> None:
    """The agent made them of its verdicts: they would confirm themselves."""
    told = event("StopIgnored", "as PID 1 …")
    told["source"] = {}
    told[key] = {"component": COMPONENT} if key == "source" else COMPONENT
    assert list(facts(listed(told, event("Killing", "Stopping")))) == [
        fact_of(event("Killing", "Stopping"))
    ]


def test_a_pod() -> None:
    fact = fact_of(pod(deleted=10, given=5))
    assert isinstance(fact, KubePod)
    (container,) = fact.containers
    (probe,) = container.probes
    assert (probe.what, probe.how, probe.period) == (
        "liveness",
        "http-get of port 8080, /healthz",
        2,
    )
    assert container.pre_stop == "sleep 5" and container.restarts == 2
    assert container.ended and container.ended.exit_code == 137
    assert (fact.grace, fact.deletion_grace) == (30, 5)
    assert fact.deleted_ns and fact.deleted_ns % 60_000_000_000 == 30_000_000_000
    assert "secret" not in repr(fact)


def test_a_list_of_one_kind_leaves_the_kind_out() -> None:
    one = event("Killing", KILLING)
    del one["kind"]
    (fact,) = facts({"kind": "EventList", "items": [one]})
    assert isinstance(fact, KubeEvent)
    other = pod()
    del other["kind"]
    (fact,) = facts({"kind": "PodList", "items": [other]})
    assert isinstance(fact, KubePod)


def test_a_static_pod_has_the_uid_that_its_cgroups_have() -> None:
    told = pod()
    told["metadata"]["uid"] = "of the mirror"
    told["metadata"]["annotations"] = {"kubernetes.io/config.mirror": UID}
    fact = fact_of(told)
    assert isinstance(fact, KubePod) and fact.uid == UID


def test_a_controllers_event_is_about_the_pod_that_it_names() -> None:
    told = event("SuccessfulDelete", "Deleted pod: web-0", kind="ReplicaSet", name="web", uid="r")
    fact = fact_of(told)
    assert isinstance(fact, KubeEvent) and fact.pod == "web-0"


@pytest.mark.parametrize("told", [event("Unhealthy", "no", count=3), pod(deleted=3, given=0)])
def test_what_is_kept_is_read_like_the_original(told: dict[str, Any]) -> None:
    fact = fact_of(told)
    assert fact is not None
    assert fact_of(orjson.loads(orjson.dumps(fact.json()))) == fact


def test_texts_are_cut_and_are_one_line() -> None:
    fact = fact_of(event("Unhealthy", "a\nb\t" + "x" * 100_000))
    assert isinstance(fact, KubeEvent)
    assert fact.message.startswith("a b x") and len(fact.message) == MAX_MESSAGE


WRONG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=9), some, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data())
def test_every_member_may_be_anything(data: st.DataObject) -> None:
    told: Any = data.draw(st.sampled_from([event("Unhealthy", "no"), pod(deleted=2)]))
    told = orjson.loads(orjson.dumps(told))
    for _ in range(data.draw(st.integers(1, 4))):
        at: Any = told
        while isinstance(at, dict | list) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
                at[key] = data.draw(WRONG)
                break
            at = at[key]
    Facts().learn(facts(told))
    list(facts({"kind": "List", "items": [told, told]}))


@given(WRONG)
def test_anything_may_be_no_object(told: object) -> None:
    assert list(facts(told)) == []


def test_facts_have_a_bound() -> None:
    few = Facts(100_000)
    for at in range(1000):
        told = event("Unhealthy", "x" * 500, name=f"web-{at}", uid=f"u{at}")
        few.learn(facts(told))
    assert 20 < len(few.all()) < 100
    assert few.about("shop", "web-999", "u999", 0)
    assert few.about("shop", "web-0", "u0", 0) is None


def test_events_of_one_pod_have_a_bound() -> None:
    many = Facts()
    many.learn(fact for at in range(1000) for fact in facts(event("Unhealthy", f"{at}")))
    told = many.about("shop", "web-0", UID, 0)
    assert told and len(told.events) == MAX_OF_POD
    assert "999" in {one.message for one in told.events}


def test_containers_of_a_pod_have_a_bound() -> None:
    told = pod()
    told["spec"]["containers"] = [{"name": f"c{at}"} for at in range(1000)]
    fact = fact_of(told)
    assert isinstance(fact, KubePod) and len(fact.containers) == MAX_CONTAINERS


def test_the_kubelets_own_deletion_does_not_hide_the_grace() -> None:
    known = Facts()
    for told in (pod(deleted=10, given=30), pod(deleted=41, given=0)):
        known.learn(facts(told))
    told_of = known.about("shop", "web-0", UID, 0)
    assert told_of and told_of.pod
    assert told_of.pod.deletion_grace == 30
    assert told_of.pod == fact_of(pod(deleted=10, given=30))


def test_another_pod_of_the_name_is_another() -> None:
    known = Facts()
    known.learn(facts(listed(event("Killing", KILLING, uid="another"), pod())))
    told = known.about("shop", "web-0", UID, 0)
    assert told and told.pod and not told.events
    assert known.about("shop", "web-0", "a third", 0) is None
    assert known.about("other", "web-0", UID, 0) is None
