# SPDX-License-Identifier: Apache-2.0
"""From a record of a connect to an event, and how it is shown."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from tests.unit.probes.test_resets import (
    CID,
    CONTAINER_CGROUP,
    NETNS,
    NETWORK,
    PEER_UID,
    UID,
    packed,
    tell,
)
from tests.unit.records import Decoding
from tracer.identity.netns import How
from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.names import Names, Pod
from tracer.probes.connects import PROBE

FAILED, NOT_SENT, UNANSWERED, GIVEN_UP, LATE = range(5)
SECOND = 1_000_000_000


@pytest.fixture
def resolver() -> Decoding:
    made = Decoding(PROBE)
    made.add_path(CONTAINER_CGROUP, f"/kubepods/pod{UID}/{CID}")
    made.add_path(200, f"/kubepods/pod{PEER_UID}")
    tell(made, "network", network=NETWORK, netns=NETNS, cgroup=CONTAINER_CGROUP, how=How.AT_HOME)
    tell(made, "network", network=7002, netns=1, cgroup=200, how=How.AT_HOME)
    tell(made, "network_address", network=7002, address=packed("10.1.0.6"))
    for network in (NETWORK, 7002):
        tell(made, "network_address", network=network)
    return made


def connect(resolver: Decoding, **values: Any) -> Event[Any]:
    given: dict[str, Any] = {
        "time": 5,
        "network": NETWORK,
        "flow_family": 2,
        "flow_local_address": packed("10.1.0.5"),
        "flow_local_port": 40000,
        "flow_remote_address": packed("10.1.0.6"),
        "flow_remote_port": 80,
        "syns": 1,
    }
    schema = shipped("connects").schemas["connect_failure"]
    (record,) = schema.cells(memoryview(cell(schema.pack(**(given | values)))))
    event = resolver.decode["connect_failure"](record)
    assert event is not None
    return event


def test_nobody_answers(resolver: Decoding) -> None:
    event = connect(
        resolver, outcome=FAILED, error=errno.ETIMEDOUT, syns=7, timed=1, duration=127 * SECOND
    )
    resolver.learn(Names({UID: Pod(UID, "shop", "web-0")}, {}))
    shown = json.loads(to_json(event, Clock(0), "node"))
    pod = {"namespace": "shop", "name": "web-0", "uid": UID, "labels": None}
    peer = {"namespace": None, "name": None, "uid": PEER_UID, "labels": None}
    assert shown == {
        "kind": "connect_failure",
        "time": shown["time"],
        "boot_ns": 5,
        "node": "node",
        "pod": pod,
        "container": None,
        "error": "timeout",
        "errno": "ETIMEDOUT",
        "answer": None,
        "syns": 7,
        "duration_ns": 127 * SECOND,
        "local": {"address": "10.1.0.5", "port": 40000, "pod": pod},
        "remote": {"address": "10.1.0.6", "port": 80, "pod": peer},
        "process": None,
    }
    assert PROBE.alarm(event)
    assert PROBE.summary(event) == (
        "connect from 10.1.0.5 to 10.1.0.6:80: timed out, 7 SYNs in 2.1 min"
    )


@pytest.mark.parametrize(
    ("values", "error", "answer", "words"),
    [
        ({"error": errno.ECONNREFUSED, "reset": 1}, "refused", "reset", "refused, 1 SYN"),
        ({"error": errno.ECONNREFUSED}, "refused", "icmp", "refused by ICMP, 1 SYN"),
        ({"error": errno.EHOSTUNREACH}, "unreachable", "icmp", "unreachable (EHOSTUNREACH), 1 SYN"),
        ({"error": errno.ENETUNREACH}, "unreachable", "icmp", "unreachable (ENETUNREACH), 1 SYN"),
        ({"error": errno.ECONNABORTED}, "aborted", None, "aborted, 1 SYN"),
        ({"error": errno.EIO}, None, None, "failed (EIO), 1 SYN"),
        ({"error": 4095}, None, None, "failed (error not known), 1 SYN"),
        ({"outcome": UNANSWERED, "syns": 3}, "unanswered", None, "not answered yet, 3 SYNs"),
        ({"outcome": GIVEN_UP, "syns": 4}, "given_up", None, "given up, 4 SYNs"),
        ({"outcome": LATE, "syns": 4}, "late", None, "answered late, 4 SYNs"),
        (
            {"outcome": NOT_SENT, "syns": 0, "flow_local_port": 0},
            *("no_local_port", None, "no local port"),
        ),
        ({"outcome": NOT_SENT, "syns": 0}, "not_sent", None, "failed before the first SYN"),
    ],
)
def test_how_it_went(
    resolver: Decoding, values: dict[str, int], error: str | None, answer: str | None, words: str
) -> None:
    event = connect(resolver, **values)
    assert (event.body["error"], event.body["answer"]) == (error, answer)
    assert PROBE.summary(event).partition(": ")[2] == words
    assert event.body["local"]["port"] == (None if error == "no_local_port" else 40000)


def test_an_attempt_in_nobodys_pod_is_no_alarm(resolver: Decoding) -> None:
    event = connect(resolver, network=0, error=errno.ETIMEDOUT)
    assert event.place is None
    assert not PROBE.alarm(event)


def test_attempts_to_one_service_are_alike_and_their_ends_are_not(resolver: Decoding) -> None:
    def group(**values: Any) -> Any:
        return PROBE.grouping(connect(resolver, **values))

    assert group(outcome=UNANSWERED, syns=3) == group(
        outcome=UNANSWERED, syns=3, flow_local_port=40001
    )
    assert group(error=errno.ETIMEDOUT, syns=7) != group(error=errno.ETIMEDOUT, syns=2)
    assert group(error=errno.ETIMEDOUT) != group(error=errno.ETIMEDOUT, flow_remote_port=81)
    assert group(error=errno.ECONNREFUSED) != group(error=errno.ECONNREFUSED, reset=1)
