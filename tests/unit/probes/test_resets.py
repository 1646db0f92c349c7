# SPDX-License-Identifier: Apache-2.0
"""From a record of a reset to an event, and how it is shown."""

from __future__ import annotations

import io
import json
from ipaddress import ip_address
from typing import Any

import pytest

from tests.support.ktrace import run
from tests.unit.records import Decoding
from tracer.identity.netns import VISITOR, How
from tracer.kernel.bpf_object import shipped
from tracer.model.address import MAPPED
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.names import Container, Names, Pod
from tracer.outputs.table import SIGN, TIME, Table, lay_out
from tracer.probes.columns import UNKNOWN
from tracer.probes.resets import PROBE, reason_table

SCHEMAS = {
    **shipped("network").schemas,
    **shipped("resets").schemas,
}
UID, PEER_UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "11111111-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7" * 64
POD_CGROUP, CONTAINER_CGROUP, PEER_CGROUP = 100, 101, 200
NETNS, NETWORK, PEER_NETWORK = 4026532000, 7001, 7002
(_, NO_SOCKET, UNREAD, LINGER, TIME_WAIT, REFUSED, LISTENER, CLOSED) = range(8)
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE = 1, 4, 5, 7


def record(name: str, **values: Any) -> Any:
    packed = SCHEMAS[name].pack(**values)
    (only,) = SCHEMAS[name].cells(memoryview(cell(packed)))
    return only


def packed(address: str) -> bytes:
    parsed = ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


def tell(resolver: Decoding, name: str, **values: Any) -> None:
    resolver.decode[name](record(name, **values))


@pytest.fixture
def resolver() -> Decoding:
    made = Decoding(PROBE)
    made.add_path(POD_CGROUP, f"/kubepods/pod{UID}")
    made.add_path(CONTAINER_CGROUP, f"/kubepods/pod{UID}/{CID}")
    made.add_path(PEER_CGROUP, f"/kubepods/pod{PEER_UID}")
    tell(made, "network", network=NETWORK, netns=NETNS, cgroup=CONTAINER_CGROUP, how=How.AT_HOME)
    tell(made, "network", network=PEER_NETWORK, netns=1, cgroup=PEER_CGROUP, how=How.AT_HOME)
    tell(made, "network_address", network=NETWORK, address=packed("10.1.0.5"))
    tell(made, "network_address", network=PEER_NETWORK, address=packed("10.1.0.6"))
    for network in (NETWORK, PEER_NETWORK):
        tell(made, "network_address", network=network)
    return made


def reset(resolver: Decoding, **values: Any) -> Event[Any]:
    given = {
        "time": 5,
        "sent": 1,
        "flow_family": 2,
        "flow_local_address": packed("10.1.0.5"),
        "flow_local_port": 80,
        "flow_remote_address": packed("10.1.0.6"),
        "flow_remote_port": 40000,
    }
    event = resolver.decode["tcp_reset"](record("tcp_reset", **(given | values)))
    assert event is not None
    return event


def as_json(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_json(event, Clock(0), "node"))
    return found


def test_a_closed_port_of_a_pod(resolver: Decoding) -> None:
    event = reset(
        resolver, network=NETWORK, cause=NO_SOCKET, syn=1, looked=1, answered=2, reason=b"NO_SOCKET"
    )
    pod = {"namespace": "shop", "name": "web-0", "uid": UID, "labels": None}
    peer = {"namespace": None, "name": None, "uid": PEER_UID, "labels": None}
    resolver.learn(Names({UID: Pod(UID, "shop", "web-0")}, {}))  # names may come later
    shown = as_json(event)
    assert shown == {
        "kind": "tcp_reset",
        "time": shown["time"],
        "boot_ns": 5,
        "node": "node",
        "pod": pod,
        "container": None,
        "direction": "sent",
        "reason": "no_socket",
        "reason_inferred": False,
        "meaning": "closed port",
        "state": None,
        "local": {"address": "10.1.0.5", "port": 80, "pod": pod},
        "remote": {"address": "10.1.0.6", "port": 40000, "pod": peer},
        "process": None,
        "idle": None,
        "bytes": None,
        "answered": ["SYN"],
    }
    assert PROBE.alarm(event)
    assert PROBE.summary(event) == "reset sent by 10.1.0.5:80 to 10.1.0.6:40000, closed port"


def test_the_sockets_cgroup_before_the_namespace(resolver: Decoding) -> None:
    event = reset(resolver, cgroup=CONTAINER_CGROUP, network=NETWORK, state=1, sent=0)
    resolver.learn(Names({}, {CID: Container(CID, "containerd", "app")}))
    shown = as_json(event)
    assert shown["container"]["name"] == "app"
    assert shown["state"] == "ESTABLISHED"
    assert shown["direction"] == "received"
    assert not PROBE.alarm(event)


@pytest.mark.parametrize("values", [{}, {"cgroup": 4711}, {"netns": 4711}, {"network": 4711}])
def test_nobody_knows_whose_it_is(resolver: Decoding, values: dict[str, int]) -> None:
    event = reset(resolver, **values, cause=NO_SOCKET, syn=1)
    assert event.place is None
    assert as_json(event)["pod"] is None
    assert not PROBE.alarm(event)


@pytest.mark.parametrize(
    ("told", "cause", "syn", "reason", "inferred", "meaning"),
    [
        (b"", 0, 0, None, False, None),
        (b"NOT_SPECIFIED", 0, 0, None, False, None),
        (b"NOT_SPECIFIED", UNREAD, 0, "tcp_abort_on_close", True, "closed with unread data"),
        (b"", NO_SOCKET, 1, "no_socket", True, "closed port"),
        (b"", NO_SOCKET, 0, "no_socket", True, "no such connection"),
        (b"NO_SOCKET", NO_SOCKET, 1, "no_socket", False, "closed port"),
        (b"TCP_STATE", 0, 0, "tcp_state", False, "aborted or disconnected"),
        (b"TCP_STATE", LINGER, 0, "so_linger_zero", True, "closed with SO_LINGER 0"),
        (b"TCP_STATE", LISTENER, 0, "listener_closed", True, "listener closed before accept"),
        (b"TCP_ABORT_ON_CLOSE", LINGER, 0, "tcp_abort_on_close", False, "closed with unread data"),
        (b"", TIME_WAIT, 0, "tcp_timewait_socket", True, "connection had ended"),
        (b"", REFUSED, 0, "connection_refused", True, "connection refused"),
        (b"MPTCP_RST_EMPTCP", 0, 0, "mptcp_rst_emptcp", False, "mptcp rst emptcp"),
        (b"TCP_RFC7323_PAWS", 0, 0, "tcp_rfc7323_paws", False, "rfc7323 paws"),
        (b"\xff\xfe", 0, 0, "\ufffd\ufffd", False, "\ufffd\ufffd"),
        (b"", CLOSED, 0, "tcp_abort_on_data", True, "data came after close"),
        (b"", 99, 0, None, False, None),
    ],
)
def test_reasons(
    resolver: Decoding,
    told: bytes,
    cause: int,
    syn: int,
    reason: str | None,
    inferred: bool,
    meaning: str | None,
) -> None:
    body = reset(resolver, reason=told, cause=cause, syn=syn).body
    assert body["reason"] == reason
    assert body["reason_inferred"] is inferred
    assert body["meaning"] == meaning


def test_every_state_has_its_name(resolver: Decoding) -> None:
    states = [reset(resolver, state=number).body["state"] for number in range(14)]
    assert states[0] is None
    assert states[1] == "ESTABLISHED"
    assert states[10] == "LISTEN"
    assert states[12] == "NEW_SYN_RECV"
    assert states[13] is None
    assert len(set(states)) == 13


def test_addresses(resolver: Decoding) -> None:
    event = reset(resolver, flow_family=10, flow_local_address=packed("2001:db8::1"))
    assert event.body["local"]["address"] == "2001:db8::1"
    assert "[2001:db8::1]:80" in PROBE.summary(event)
    unknown = reset(resolver, flow_family=0)
    assert as_json(unknown)["local"] == {"address": None, "port": None, "pod": None}


def test_a_process_whose_description_was_lost(resolver: Decoding) -> None:
    event = reset(resolver, process_process=7, process_pid=42, process_tid=43)
    shown = as_json(event)["process"]
    assert (shown["pid"], shown["tid"], shown["comm"]) == (42, 43, None)


def test_what_is_not_known_yet(resolver: Decoding) -> None:
    """It is made anew with what has been told since, and doubted if that was concluded."""
    event = reset(resolver, network=4711, netns=4712)
    assert event.place is None
    assert event.again is not None
    tell(resolver, "network", network=4711, netns=4712, cgroup=CONTAINER_CGROUP, how=How.VISITING)
    anew = event.again()
    assert anew is not None
    assert anew.place is not None
    assert anew.place.identity.pod_uid == UID
    assert anew.doubts == (VISITOR,)
    assert reset(resolver, network=NETWORK).again is None


@pytest.mark.parametrize("state", [FIN_WAIT1, FIN_WAIT2])
@pytest.mark.parametrize(("told", "cause"), [(b"TCP_ABORT_ON_DATA", 0), (b"", CLOSED)])
def test_the_kernels_own_call_is_no_reset_that_was_received(
    resolver: Decoding, state: int, told: bytes, cause: int
) -> None:
    received = reset(resolver, sent=0, state=state, time=5)
    sent = reset(resolver, state=CLOSE, reason=told, cause=cause, time=2000)
    assert received.again is not None
    assert received.again() is None
    assert sent.again is None


@pytest.mark.parametrize(
    ("of_received", "of_sent"),
    [
        ({"state": ESTABLISHED}, {}),
        ({}, {"flow_remote_port": 40001}),
        ({}, {"flow_local_address": packed("10.1.0.7")}),
        ({}, {"netns": 1}),
        ({}, {"reason": b"TCP_ABORT_ON_CLOSE"}),
        ({}, {"time": 60_000_000}),
    ],
)
def test_a_reset_that_was_received(
    resolver: Decoding, of_received: dict[str, Any], of_sent: dict[str, Any]
) -> None:
    """Twins: another connection, another state, another reason, another call."""
    received = reset(resolver, **({"sent": 0, "state": FIN_WAIT1} | of_received))
    reset(resolver, **({"state": CLOSE, "reason": b"TCP_ABORT_ON_DATA"} | of_sent))
    assert received.again is None or received.again() is received


def test_what_went_on_before(resolver: Decoding) -> None:
    traffic = {
        "looked": 1,
        "traffic_known": 1,
        "traffic_sent_ago": 4_000_000,
        "traffic_received_ago": 3_000_000_000,
        "traffic_heard_ago": 1_000_000_000,
        "traffic_bytes_sent": 23,
        "traffic_bytes_received": 42,
        "traffic_unacknowledged": 7,
    }
    shown = as_json(reset(resolver, sent=0, state=8, **traffic))
    assert shown["idle"] == {
        "sent_ns": 4_000_000,
        "received_ns": 3_000_000_000,
        "heard_ns": 1_000_000_000,
        "ended_ns": None,
    }
    assert shown["bytes"] == {"sent": 23, "received": 42, "unacknowledged": 7}
    assert shown["answered"] is None
    late = as_json(reset(resolver, cause=TIME_WAIT, ended_ago=14_000_000, looked=1, answered=0x18))
    assert late["idle"]["ended_ns"] == 14_000_000
    assert late["idle"]["sent_ns"] is late["bytes"] is None
    assert late["answered"] == ["PSH", "ACK"]
    # a recording that an older version made
    assert (
        not {"idle", "bytes", "answered"}
        & as_json(reset(resolver, **(traffic | {"looked": 0}))).keys()
    )


def test_the_table_of_reasons() -> None:
    table = reason_table(
        {"SK_RST_REASON_NOT_SPECIFIED": 0, "SK_RST_REASON_B": 63, "OTHER_B": 63, "X": 64, "Y": -1}
    )
    assert len(table) == 64 * 32
    assert table[:32].rstrip(b"\0") == b"NOT_SPECIFIED"
    assert table[63 * 32 :].rstrip(b"\0") == b"B"
    assert table.count(b"X") == table.count(b"Y") == 0
    assert reason_table({"SK_RST_REASON_" + "L" * 32: 1}) == bytes(64 * 32)


def test_the_table_has_room_in_the_object() -> None:
    _, size = shipped("resets").settings["kt_reset_reasons"]
    assert size == len(reason_table({}))


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_it_fits_the_terminal(resolver: Decoding, width: int) -> None:
    columns = [TIME, SIGN, *(c for c in PROBE.columns if not c.wide)]
    widths = lay_out(columns, [100] * len(columns), width)
    kept = [w for w in widths if w is not None]
    assert sum(kept) + 2 * (len(kept) - 1) <= width
    titles = [c.title for c, w in zip(columns, widths, strict=True) if w is not None]
    assert {"TIME", "RESET", "LOCAL", "REASON", "POD"} <= set(titles)


@pytest.mark.parametrize("wide", [False, True])
def test_a_line_about_which_nothing_is_known(resolver: Decoding, wide: bool) -> None:
    out = io.StringIO()
    table = Table(
        out, Clock(0), PROBE.columns, PROBE.alarm, wide=wide, colour=False, headers=False, fit=False
    )
    table.event(reset(Decoding(PROBE), flow_family=0, sent=0))
    table.flush()
    words = out.getvalue().split()
    assert words[1] == "received"
    assert set(words[2:]) == {UNKNOWN}


def test_what_was_inferred_is_marked(resolver: Decoding) -> None:
    (reason,) = (column for column in PROBE.columns if column.title == "REASON")
    assert reason.value(reset(resolver, cause=LINGER)) == "closed with SO_LINGER 0?"
    assert reason.value(reset(resolver, reason=b"NO_SOCKET", cause=NO_SOCKET)) == (
        "no such connection"
    )


def test_help() -> None:
    ended = run("resets", "--help")
    assert ended.returncode == 0
    assert "ktrace resets -p shop/web-0" in ended.stdout
