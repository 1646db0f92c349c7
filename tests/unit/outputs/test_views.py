# SPDX-License-Identifier: Apache-2.0
"""What a person and a program see: escapes, JSON lines by the contract, tables that fit."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import time
import unicodedata
from collections.abc import Set
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import records
from tests.unit.records import ANCESTOR, argv, cgroup_path, exe
from tracer import probes
from tracer.identity.resolver import Resolver
from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.cgroup import CgroupIdentity, parse
from tracer.model.event import Clock, Event, LostBody, Place, Process, text, to_json
from tracer.model.names import Container, Names, Pod
from tracer.outputs import jsonl
from tracer.outputs.escape import escape
from tracer.outputs.jsonl import FLUSH_BYTES, JsonLines
from tracer.outputs.stream import stream_columns
from tracer.outputs.table import GAP, SIGN, TIME, Table, lay_out
from tracer.outputs.terminal import cells, folded, shorten
from tracer.probes import Stream
from tracer.probes.columns import UNKNOWN, Column
from tracer.session.patterns import Pattern

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
PATH = f"/kubepods/burstable/pod{UID}/{CID}"
PROBES = [probes.get(name) for name in probes.names()]
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too

# What people put into names, on purpose or not.
HOSTILE = [
    "[red]x[/red]",
    "[/]",
    "\x1b[2J\x1b[31mred",
    "line\nline",
    "tab\tcr\r",
    "\x07\x08\x7f\x9b",
    'quote"back\\slash',
    "\u202egnp.exe",
    "\u2028\u2029\u0085",
    "漢字かな交じり文の長い名前",
    "😀🚀👩\u200d👩\u200d👧🇩🇪",
    "e\u0301\u0301\u0301\u0301\u0301",
    "",
    " ",
    "-",
    "!! 5 events",
]


# Escapes


@given(ANY_TEXT)
def test_what_is_shown_is_printable(word: str) -> None:
    shown = escape(word)
    assert shown.isprintable()
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    shown.encode()


@given(ANY_TEXT)
def test_only_what_is_not_printable_changes(word: str) -> None:
    kept = "".join(c for c in word if c.isprintable())
    assert escape(kept) == kept
    parts = [c if c.isprintable() else None for c in word]
    if None not in parts:
        assert escape(word) == word
    else:
        literal = re.escape("").join(re.escape(p) if p else r"\\[tnrxuU][0-9a-f]*" for p in parts)
        assert re.fullmatch(literal, escape(word))


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
        ("[red]x[/red] ü 漢 😀", "[red]x[/red] ü 漢 😀"),
    ],
)
def test_escapes(word: str, shown: str) -> None:
    assert escape(word) == shown


@given(st.binary())
def test_any_bytes_of_the_kernel_become_text(raw: bytes) -> None:
    shown = text(raw)
    shown.encode()
    assert "\0" not in shown
    if b"\0" not in raw:
        assert shown.encode() == raw or "\\x" in shown


# Events, as a resolver and the probes make them


def decode(name: str, resolver: Resolver, **values: Any) -> Event:
    owner = next(probe for probe in PROBES if name in probe.whose)
    event = owner.decoder(Stream(resolver))[name](records.record(name, **values))
    assert event is not None
    return event


def resolver(word: bytes = b"nginx", names: Names | None = None) -> Resolver:
    """Two processes, 1 in a pod and 2 on the host, that are all called `word`."""
    known = Resolver(lambda place: None)
    if names:
        known.learn(names)
    for number, path in enumerate([PATH.encode(), b"/x/" + word], 1):
        known.add_cgroup(records.record("cgroup", cgroup=number, **cgroup_path(path)))
        values: dict[str, Any] = {"process": number, "cgroup": number, "uid": 1000}
        values |= {"pid": number, "tid": number}
        values |= {"comm": word[:16], **exe(b"/bin/" + word[:200]), **argv(word[:200], word[:50])}
        ancestors = ANCESTOR.pack(7, word[:16]) + ANCESTOR.pack(1, b"systemd")
        values |= {"ancestry": ancestors, "ancestors": 2}
        known.add_process(records.record("process", **values))
    return known


def signal(known: Resolver, **values: Any) -> Event:
    values = {"signal": 9, "sender_process": 2, "target_process": 1, "time": 5, **values}
    values = {"sender_pid": 20, "sender_tid": 20, "target_pid": 10, "target_tid": 10, **values}
    return decode("signal", known, **values)


def ended(known: Resolver, **values: Any) -> Event:
    values = {"process_process": 1, "process_pid": 10, "process_tid": 10, "status": 9, **values}
    return decode("exit", known, **values)


def lost(count: int = 5) -> Event:
    body = {"probe": "signals", "count": count, "since": "2020-01-01T00:00:00.000000000Z"}
    return Event("lost", 5, None, None, body)


NAMED = Names(
    {UID: Pod(UID, "shop", "web-0", {"app": "web"})},
    {CID: Container(CID, "containerd", "nginx", UID)},
)


def named(word: str) -> Names:
    return Names({UID: Pod(UID, word, word, {word: word})}, {CID: Container(CID, word, word, UID)})


# JSON lines


def json_lines(*events: Event, clock: Clock | None = None) -> list[Any]:
    out = io.BytesIO()
    sink = JsonLines(out, clock or Clock(0), "node-1")
    for event in events:
        sink.event(event)
    sink.flush()
    raw = out.getvalue()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", raw), "a control byte in JSON"
    lines = raw.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(events)
    return [json.loads(line) for line in lines]


EVERY = {"kind", "time", "boot_ns", "node", "pod", "container"}
PROCESS = {"pid", "tid", "comm", "exe", "argv", "uid", "pid_in_pod", "start_boot_ns"}
PROCESS |= {"pod", "container", "ancestry"}
BODIES: dict[str, Any] = {kind: b for p in PROBES for kind, b in p.bodies.items()}
# Without keys that may be missing.
CONTRACT: dict[str, Set[str]] = {
    kind: body.__required_keys__ for kind, body in {**BODIES, "lost": LostBody}.items()
}


@pytest.mark.parametrize("names", [NAMED, None], ids=["named", "nameless"])
def test_every_key_of_the_contract_is_there(names: Names | None) -> None:
    known = resolver(names=names)
    one, other, third = json_lines(signal(known), ended(known), lost())
    for found in (one, other, third):
        assert found.keys() >= EVERY | CONTRACT[found["kind"]]
        assert found["node"] == "node-1"
    assert one["signal"].keys() >= {"number", "name", "code", "result"}
    for process in (one["sender"], one["target"], other["process"]):
        assert process.keys() >= PROCESS
        assert process["ancestry"] == [{"pid": 7, "comm": "nginx"}, {"pid": 1, "comm": "systemd"}]
    assert other["signal"].keys() >= {"number", "name"}
    assert one["pod"].keys() == {"namespace", "name", "uid", "labels"}
    assert one["container"].keys() == {"name", "id", "runtime"}
    assert (third["pod"], third["container"]) == (None, None)


@pytest.mark.parametrize("kind", BODIES)
def test_of_whatever_little_is_known_every_key_is_there(kind: str) -> None:
    """The record says whom it happened to, and is empty otherwise."""
    owner = next(probe for probe in PROBES if kind in probe.bodies)
    known = resolver(names=NAMED)
    for values in ({owner.whose[kind]: 1}, {}):
        schema = shipped(owner.object).schemas[kind]
        (record,) = schema.cells(memoryview(cell(schema.pack(time=5, **values))))
        event = owner.decoder(Stream(known))[kind](record)
        if event is None and kind in owner.state:
            continue  # an empty state is none
        assert event is not None
        (found,) = json_lines(event)
        assert (found["kind"], found["boot_ns"]) == (kind, 5)
        assert EVERY | CONTRACT[kind] <= found.keys()
        for key in ("process", "sender", "target", "victim"):
            if found.get(key):
                assert found[key].keys() >= PROCESS
        assert (found["pod"] is not None) == bool(values)


def test_what_is_unknown_is_null_and_still_there() -> None:
    known = Resolver(lambda place: None)
    one, other = json_lines(signal(known), ended(known, status=0))
    assert one.keys() >= EVERY | CONTRACT["signal"]
    assert (one["pod"], one["container"], one["origin"]) == (None, None, None)
    for process in (one["sender"], one["target"], other["process"]):
        assert process.keys() >= PROCESS
        unknown = PROCESS - {"pid", "tid"}
        assert all(process[key] is None for key in unknown)
    assert (one["target"]["pid"], one["sender"]["pid"]) == (10, 20)
    assert (other["exit_code"], other["signal"], other["container_exit"]) == (0, None, None)


def test_the_kernel_as_a_sender_is_null() -> None:
    (found,) = json_lines(signal(resolver(), from_kernel=1, signal=11, code=1))
    assert (found["sender"], found["origin"]) == (None, "kernel")
    assert found["signal"]["code"] == "SEGV_MAPERR"


def test_the_values() -> None:
    known = resolver(names=NAMED)
    one, other = json_lines(signal(known), ended(known, status=139))
    assert one["pod"] == {
        "namespace": "shop",
        "name": "web-0",
        "uid": UID,
        "labels": {"app": "web"},
    }
    assert one["container"] == {"name": "nginx", "id": CID, "runtime": "containerd"}
    assert one["target"]["pod"] == one["pod"]
    assert one["sender"]["pod"] is None
    assert one["sender"]["argv"] == ["nginx", "nginx"]
    assert one["signal"] == {
        "number": 9,
        "name": "SIGKILL",
        "code": "SI_USER",
        "result": "delivered",
    }
    assert (other["exit_code"], other["core_dumped"]) == (None, True)
    assert other["signal"]["name"] == "SIGSEGV"


def test_an_event_without_a_process_may_have_a_place() -> None:
    place = Place(1, PATH, parse(PATH), NAMED.pods[UID], NAMED.containers[CID])
    (found,) = json_lines(Event("x", 0, None, None, {}, place))
    assert found["pod"]["name"] == "web-0"
    assert found["container"]["name"] == "nginx"


def test_names_that_come_later_are_in_later_lines() -> None:
    known = resolver()
    event = signal(known)
    (before,) = json_lines(event)
    known.learn(NAMED)
    (after,) = json_lines(event)
    assert before["pod"] == {"namespace": None, "name": None, "uid": UID, "labels": None}
    assert after["pod"]["name"] == after["target"]["pod"]["name"] == "web-0"
    assert after["container"]["name"] == "nginx"


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_stay_what_they_are(word: str) -> None:
    known = resolver(word.encode(), named(word))
    found, other = json_lines(signal(known), ended(known))
    assert found["pod"]["name"] == found["container"]["name"] == word
    assert found["pod"]["labels"] == {word: word}
    assert found["sender"]["comm"] == text(word.encode()[:16])
    assert found["sender"]["argv"][1] == text(word.encode()[:50])
    assert other["process"]["pod"]["namespace"] == word


@given(st.binary(max_size=60), st.text(max_size=20))
def test_any_bytes_give_valid_json(word: bytes, name: str) -> None:
    known = resolver(word, named(name))
    found, _ = json_lines(signal(known), ended(known))
    assert found["sender"]["comm"] == text(word[:16])
    assert found["pod"]["name"] == name


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_times_are_utc_with_nanoseconds(boot_ns: int, offset: int) -> None:
    clock = Clock(offset)
    seconds, nanoseconds = divmod(boot_ns + offset, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).replace(tzinfo=None)
    assert clock.iso(boot_ns) == f"{moment.isoformat()}.{nanoseconds:09d}Z"
    (found,) = json_lines(Event("x", boot_ns, None, None, {}), clock=clock)
    assert (found["boot_ns"], found["time"]) == (boot_ns, clock.iso(boot_ns))


@given(st.lists(st.integers(0, 3_000_000_000)))
def test_one_clock_tells_many_times(moments: list[int]) -> None:
    clock = Clock(0)
    told = [clock.iso(moment) for moment in moments]
    assert told == [f"1970-01-01T00:00:0{m // 10**9}.{m % 10**9:09d}Z" for m in moments]


def test_the_clock_is_the_time_of_day() -> None:
    clock = Clock()
    shown = datetime.datetime.fromisoformat(clock.iso(clock.now())[:26] + "+00:00")
    assert abs((datetime.datetime.now(datetime.timezone.utc) - shown).total_seconds()) < 5


def test_a_storm_is_written_in_pieces() -> None:
    out = mock.Mock(fileno=io.BytesIO().fileno)
    sink = JsonLines(out, Clock(0), "node")
    event = lost()
    for _ in range(3 * FLUSH_BYTES // 100):
        sink.event(event)
    assert 2 <= out.write.call_count <= 10
    sink.flush()
    written = b"".join(call.args[0] for call in out.write.call_args_list)
    assert written.count(b"\n") == 3 * FLUSH_BYTES // 100


def pattern(pid: int) -> Pattern:
    about = Process(pid, pid, '","node":', place=Place(7, PATH, parse(PATH), Pod(UID)))
    body: LostBody = {"probe": '"time":"', "count": pid, "since": "x"}
    return Pattern(Event("exit", 1, about, None, body))


def test_lines_of_patterns_are_those_of_their_events() -> None:
    """Across seconds, in any order, and with the names that are known by then."""
    patterns = [pattern(pid) for pid in range(3)]
    clock = Clock(999_999_990)
    out, sightings = io.BytesIO(), [(n * 7 % 40, patterns[n * n % 3]) for n in range(60)]
    sink = JsonLines(out, clock, "node")
    told = b""
    for name in (None, "web-0", "web-1"):
        for one in patterns:
            assert one.event.place
            one.event.place.rename(Pod(UID, "shop", name), None)
        sink.sightings(iter(sightings))
        told += b"".join(to_json(one.at(boot_ns), clock, "node") for boot_ns, one in sightings)
    sink.event(lost())
    sink.flush()
    assert out.getvalue() == told + to_json(lost(), clock, "node")


def test_a_line_is_made_once_for_like_events(monkeypatch: pytest.MonkeyPatch) -> None:
    made = mock.Mock(side_effect=to_json)
    monkeypatch.setattr(jsonl, "to_json", made)
    one = pattern(1)
    JsonLines(io.BytesIO(), Clock(0), "node").sightings((n, one) for n in range(100))
    assert made.call_count == 2


def test_only_so_many_lines_are_kept() -> None:
    sink = JsonLines(io.BytesIO(), Clock(0), "node", 5000)
    for pid in range(100):
        one = pattern(pid)
        sink.sightings([(n, one) for n in range(3)])
        assert sink._kept < 5000 + 2000
        assert len(sink._around) < 10
    assert sink._around


# Tables


def table(
    *events: Event,
    width: int | None = None,
    probe: str = "signals",
    wide: bool = False,
    colour: bool = False,
    headers: bool = True,
) -> list[str]:
    """The lines; `width` is the terminal's."""
    out = io.StringIO()
    chosen = probes.get(probe) if probe != "stream" else None
    by_kind = {kind: p for p in PROBES for kind in p.whose}
    with mock.patch.dict(os.environ, {"COLUMNS": str(width or 0)}):
        sink = Table(
            out,
            Clock(0),
            chosen.columns if chosen else stream_columns(by_kind),
            lambda event: by_kind[event.kind].alarm(event),
            wide=wide,
            colour=colour,
            headers=headers,
            fit=width is not None,
        )
        for event in events:
            sink.event(event)
        sink.flush()
    lines = out.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(events) + headers
    return lines


def width_of(line: str) -> int:
    """Terminal cells, for letters whose width is beyond dispute."""
    wide = sum(unicodedata.east_asian_width(c) == "W" for c in line)
    return len(line) + wide - sum(bool(unicodedata.combining(c)) for c in line)


def without_colour(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


LETTERS = st.text(st.sampled_from("ab/-[]漢字かな한😀🚀\u0301\u0308\n\x1b"), max_size=80)


@settings(max_examples=300)
@given(st.integers(60, 200), LETTERS, LETTERS, st.booleans(), st.booleans())
def test_no_line_is_longer_than_the_terminal(
    width: int, word: str, name: str, colour: bool, wide_status: bool
) -> None:
    known = resolver(word.encode(), named(name))
    status = 139 if wide_status else 64 << 8
    for probe, events in {
        "signals": [signal(known), signal(known, from_kernel=1)],
        "exits": [ended(known, status=status)],
        "stream": [signal(known), ended(known)],
    }.items():
        for line in table(*events, width=width, probe=probe, colour=colour):
            shown = without_colour(line)
            assert width_of(shown) <= width, shown
            assert shown.isprintable()


@pytest.mark.parametrize("width", [60, 61, 80, 100, 132, 200])
@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_break_no_line(word: str, width: int) -> None:
    known = resolver(word.encode(), named(word))
    for probe, event in (("signals", signal(known)), ("exits", ended(known))):
        for line in table(event, width=width, probe=probe):
            assert line.isprintable()
            assert cells(line) <= width


def folded_table(*events: Event, width: int, probe: str) -> str:
    """On a terminal on which each event takes several lines."""
    by_kind = {kind: p for p in PROBES for kind in p.whose}
    columns = stream_columns(by_kind) if probe == "stream" else probes.get(probe).columns
    out = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": str(width)}):
        sink = Table(
            *(out, Clock(0), columns, lambda event: by_kind[event.kind].alarm(event)),
            wide=False,
            colour=False,
            headers=True,
            fit=True,
        )
        for event in events:
            sink.event(event)
        sink.flush()
    return out.getvalue()


@given(st.integers(2, 30), LETTERS, LETTERS)
def test_where_no_columns_fit_lines_are_folded_and_nothing_is_missing(
    width: int, word: str, name: str
) -> None:
    known = resolver(word.encode(), named(name))
    for probe in ("signals", "stream"):
        told = folded_table(signal(known), signal(known), width=width, probe=probe)
        for line in told.splitlines():
            assert cells(line) <= width
            assert line.isprintable()
        assert "…" not in told or taken(lay_out_of(probe, width)) <= width


@pytest.mark.parametrize("width", [5, *range(60, 201, 7)])
def test_the_note_about_lost_events_fits_too(width: int) -> None:
    told = folded_table(lost(10**18), width=width, probe="signals")
    assert all(width_of(line) <= width for line in told.splitlines())
    assert str(10**18) in "".join(told.split())


def lay_out_of(probe: str, width: int) -> list[int | None]:
    by_kind = {kind: p for p in PROBES for kind in p.whose}
    own = stream_columns(by_kind) if probe == "stream" else probes.get(probe).columns
    columns = [TIME, SIGN] + [c for c in own if not c.wide]
    return lay_out(columns, [100] * len(columns), width)


@pytest.mark.parametrize("probe", [*probes.names(), "stream"])
def test_twenty_columns(probe: str) -> None:
    """A stream is folded and whole. A note about losses is never cut without a sign."""
    known = resolver(b"a-long-name-of-1", named("a-pod-with-a-long-name-7d9c6b5f4-x2x9z"))
    event = ended(known, status=64 << 8) if probe == "exits" else signal(known)
    shown = probe if probe in ("exits", "stream") else "signals"
    told = folded_table(event, lost(10**18), width=20, probe=shown)
    assert all(cells(line) <= 20 for line in told.splitlines())
    together = "".join(told.split())
    assert f"!!{10**18}" in together
    assert "toofasttoberead" in together
    if shown == "stream":
        assert "a-long-name-of-1" in together


@given(LETTERS, st.integers(1, 40))
def test_what_is_folded_is_whole(word: str, width: int) -> None:
    shown = escape(word)
    told = folded(shown, max(width, 2))
    assert all(cells(line) <= max(width, 2) for line in told.splitlines())
    assert "".join(told.split()) == "".join(shown.split())


def taken(widths: list[int | None]) -> int:
    kept = [width for width in widths if width is not None]
    return sum(kept) + len(GAP) * (len(kept) - 1)


@given(st.sampled_from([*probes.names(), "stream"]), st.integers(60, 200), st.data())
def test_the_terminal_is_filled(probe: str, width: int, data: st.DataObject) -> None:
    """To the last cell, unless every column has room for all that is in it."""
    by_kind = {kind: p for p in PROBES for kind in p.whose}
    own = stream_columns(by_kind) if probe == "stream" else probes.get(probe).columns
    columns = [TIME, SIGN] + [c for c in own if not c.wide]
    needs = [data.draw(st.integers(0, 2 * c.width)) for c in columns]
    widths = lay_out(columns, needs, width)
    wanted = [max(c.narrow, min(need, c.width)) for c, need in zip(columns, needs, strict=True)]
    shown = [(w, most) for w, most in zip(widths, wanted, strict=True) if w is not None]
    assert taken(widths) <= width
    assert taken(widths) == width or all(w == most for w, most in shown)
    assert all(w <= most for w, most in shown)
    everything = lay_out(columns, needs, None)
    assert everything == wanted


@pytest.mark.parametrize("probe", [*probes.names(), "stream"])
def test_sixty_columns_have_room_for_the_pod(probe: str) -> None:
    by_kind = {kind: p for p in PROBES for kind in p.whose}
    own = stream_columns(by_kind) if probe == "stream" else probes.get(probe).columns
    columns = [TIME, SIGN] + [c for c in own if not c.wide]
    widths = lay_out(columns, [100] * len(columns), 60)
    assert "POD" in [c.title for c, w in zip(columns, widths, strict=True) if w]
    assert taken(widths) <= 60


def column(title: str, narrow: int, width: int, rank: int = 0) -> Column:
    return Column(title, lambda e: None, narrow, width, rank)


COLUMNS = st.lists(
    st.builds(column, st.text(), st.integers(1, 20), st.integers(20, 50), st.integers(0, 4)),
    min_size=1,
    max_size=8,
)


@given(COLUMNS, st.integers(1, 300))
def test_the_least_important_columns_go_first(columns: list[Column], width: int) -> None:
    widths = lay_out(columns, [100] * len(columns), width)
    kept = [c for c, w in zip(columns, widths, strict=True) if w is not None]
    dropped = [c for c, w in zip(columns, widths, strict=True) if w is None]
    assert all(c.rank for c in dropped)
    if dropped:
        nearest = min(c.rank for c in dropped)
        assert max((c.rank for c in kept), default=0) <= nearest
        one_more = sum(c.narrow for c in kept) + min(c.narrow for c in dropped if c.rank == nearest)
        assert one_more + len(GAP) * len(kept) > width or len(dropped) > 1
    if any(c.rank for c in kept):
        assert taken(widths) <= width


@given(COLUMNS, st.integers(1, 300))
def test_the_important_columns_grow_first(columns: list[Column], width: int) -> None:
    widths = lay_out(columns, [100] * len(columns), width)
    shown = [(c, w) for c, w in zip(columns, widths, strict=True) if w is not None]
    cut = [c.rank for c, w in shown if w < c.width]
    grown = [c.rank for c, w in shown if w > c.narrow]
    if cut and grown:
        assert max(grown) <= min(cut)


def test_nothing_goes_and_nothing_is_cut_into_a_pipe() -> None:
    word = "a-very-long-name-" * 12
    known = resolver(b"nginx", named(word))
    header, line = table(signal(known))
    assert f"{word}/{word}" in line
    for title in ("TIME", "SIGNAL", "SENDER", "FROM", "TARGET", "POD", "CONTAINER", "RESULT"):
        assert title in header.split()


@pytest.mark.parametrize("probe", PROBES, ids=probes.names())
def test_titles_are_never_cut(probe: probes.Probe) -> None:
    assert [c.title for c in probe.columns if len(c.title) > c.narrow] == []


def test_markup_is_shown_as_it_is() -> None:
    known = resolver(b"[red]x[/red]", named("[bold]web"))
    (line,) = table(signal(known), width=200, headers=False)
    assert "[red]x[/red][2]" in line
    assert "[bold]web/[bold]web" in line
    assert "\x1b" not in line


def test_control_bytes_are_shown_escaped() -> None:
    known = resolver(b"\x1b[2J\n", named("a\x1b]0;b\x07"))
    for colour in (False, True):
        (line,) = table(signal(known), width=200, headers=False, colour=colour)
        assert "\\x1b[2J\\n[2]" in line
        assert "a\\x1b]0;b\\x07" in line


def test_a_name_cannot_look_like_two_columns() -> None:
    known = resolver(b"sh[1]  runtime", NAMED)
    (line,) = table(signal(known), width=200, headers=False)
    assert "sh[1] \\x20runtime[2]" in line
    assert "  runtime" not in line


@pytest.mark.parametrize("colour", [False, True])
def test_what_must_stand_out_has_a_sign(colour: bool) -> None:
    known = resolver(names=NAMED)
    kill, term = signal(known), signal(known, signal=15)
    header, loud, quiet = table(kill, term, width=160, colour=colour)
    assert ("\x1b[" in loud) == colour
    assert "\x1b" not in quiet
    assert ("\x1b[" in header) == colour
    sign = slice(12 + len(GAP), 12 + len(GAP) + 1)
    assert without_colour(loud)[sign] == "!"
    assert quiet[sign] == " "
    assert without_colour(loud).replace("!", " ").split() == [
        word.replace("SIGTERM", "SIGKILL") for word in quiet.split()
    ]


def test_what_stands_out() -> None:
    def alarm(event: Event) -> bool:
        owner = next(p for p in PROBES if event.kind in p.whose)
        return owner.alarm(event)

    known = resolver(names=NAMED)
    nobody = Resolver(lambda place: None)
    assert alarm(signal(known))
    assert not alarm(signal(known, signal=15))
    assert not alarm(signal(known, target_process=2))  # the host kills on the host
    assert not alarm(signal(nobody, from_kernel=1))
    assert alarm(signal(nobody, signal=15))  # a sender that nobody knows
    hidden = Process(1, 1, comm="x", exe="/tmp/x")
    assert alarm(Event("signal", 0, None, hidden, signal(known, signal=15).body))
    first = {"pid_in_pod": 1, "pid_level": 1, "process": 9, "cgroup": 1}
    known.add_process(records.record("process", **first))
    assert alarm(ended(known, process_process=9))
    assert not alarm(ended(known, process_process=9, status=0))
    assert not alarm(ended(known))


def test_the_end_of_a_sandbox_is_routine() -> None:
    """Every pod that goes has one."""
    alarm = probes.get("signals").alarm
    pause = Process(7, 7, comm="pause", place=Place(1, "/x", CgroupIdentity()))
    assert pause.place
    pause.place.container = Container("c" * 64, "containerd", pod_uid="uid")
    body = {"signal": {"name": "SIGKILL", "number": 9}, "origin": "runtime"}
    runtime = Process(1, 1, comm="runc", exe="/usr/bin/runc")
    assert not alarm(Event("signal", 0, pause, runtime, body))
    assert alarm(Event("signal", 0, pause, runtime, body | {"origin": "host"}))
    for code, loud in ((0, False), (137, False), (143, False), (139, True), (1, True)):
        died = {"signal": {"number": code - 128} if code > 128 else None, "exit_code": code}
        event = Event("exit", 0, pause, None, {**died, "container_exit": True})
        assert probes.get("exits").alarm(event) is loud
    pause.place.container = Container("c" * 64, "containerd", "app", "uid")
    assert alarm(Event("signal", 0, pause, runtime, body))


def test_headers_come_once_and_only_if_wanted() -> None:
    known = resolver()
    events = [signal(known)] * 3
    with_headers, without = table(*events), table(*events, headers=False)
    assert with_headers[1:] == without
    assert with_headers[0].startswith("TIME")
    assert sum("TIME" in line for line in with_headers) == 1


def test_headers_come_with_the_first_event() -> None:
    """They are as wide as what is below them."""
    out = io.StringIO()
    known = resolver(names=named("a-longer-name"))
    probe = probes.get("signals")
    options = {"wide": False, "colour": False, "headers": True, "fit": False}
    sink = Table(out, Clock(0), probe.columns, probe.alarm, **options)
    sink.flush()
    assert out.getvalue() == ""
    sink.event(signal(known))
    sink.flush()
    header, line = out.getvalue().splitlines()
    assert header.index("CONTAINER") == line.rindex("a-longer-name")


def test_a_window_that_is_resized_is_filled_again() -> None:
    out = io.StringIO()
    known = resolver(names=named("long-name-" * 8))
    probe = probes.get("signals")
    sink = Table(
        out,
        Clock(0),
        probe.columns,
        probe.alarm,
        wide=False,
        colour=False,
        headers=True,
        fit=True,
    )
    for width in (80, 80, 150):
        with mock.patch.dict(os.environ, {"COLUMNS": str(width)}):
            sink.event(signal(known))
            sink.flush()
    lines = out.getvalue().splitlines()
    assert [line.startswith("TIME") for line in lines] == [True, False, False, True, False]
    assert all(len(line) <= 80 for line in lines[:3])
    assert 80 < len(lines[4]) <= 150


def test_wide_has_the_ancestry_and_is_not_cut() -> None:
    known = resolver(b"pkill", NAMED)
    header, line = table(signal(known), width=60, wide=True)
    assert "systemd → pkill → pkill" in line
    assert "/bin/pkill" in line
    assert "pkill pkill" in line
    assert "1000" in line
    assert "ANCESTRY" in header
    plain = table(signal(known), width=200)[0]
    assert "ANCESTRY" not in plain


@pytest.mark.parametrize("probe", ["signals", "exits"])
def test_what_is_unknown_is_a_dash(probe: str) -> None:
    known = Resolver(lambda place: None)
    event = signal(known) if probe == "signals" else ended(known)
    (line,) = table(event, probe=probe, wide=True, headers=False)
    assert UNKNOWN in line.split()
    assert "None" not in line
    assert "[10]" in line


def test_a_pod_without_a_name_is_shown_by_its_uid() -> None:
    (line,) = table(signal(resolver()), headers=False)
    assert UID in line
    assert CID[:12] in line
    assert CID not in line


def test_the_time_is_local_to_the_millisecond() -> None:
    event = signal(resolver(), time=1_700_000_000_123_456_789)
    (line,) = table(event, headers=False)
    clock = time.strftime("%H:%M:%S", time.localtime(1_700_000_000))
    assert line.startswith(f"{clock}.123  ")


def test_a_note_about_lost_events_stands_out_and_tells_how_many() -> None:
    (plain,) = table(lost(7), width=120, headers=False)
    assert plain.startswith("!! 7 ")
    assert "signals" in plain
    assert "lost" in plain
    (coloured,) = table(lost(7), width=120, headers=False, colour=True)
    assert coloured != plain
    assert without_colour(coloured) == plain


def test_in_a_stream_every_event_says_itself() -> None:
    known = resolver(names=NAMED)
    killed, exited = table(signal(known), ended(known), probe="stream", width=160, headers=False)
    assert "SIGKILL from nginx[2] to nginx[1]" in killed
    assert "nginx[1] ended, 137 = 128 + 9: killed by SIGKILL" in exited
    assert "signal" in killed.split()
    assert "exit" in exited.split()


# Cutting


@given(LETTERS, st.integers(1, 60))
def test_shortened_text_has_exactly_the_width(word: str, width: int) -> None:
    shown = escape(word)
    if cells(shown) <= width:
        return
    short = shorten(shown, width)
    assert width_of(short) == width
    head, dots, tail = short.partition("…")
    assert dots
    assert shown.startswith(head)
    assert shown.endswith(tail.rstrip(" "))


def test_both_ends_of_a_name_survive() -> None:
    assert shorten("checkout-7d9f8b-x2x9k", 11) == "check…x2x9k"
    assert shorten("abcdef", 2) == "a…"
    assert shorten("abcdef", 1) == "…"


@given(st.text(st.sampled_from("abc漢字😀\u0301")))
def test_cells(word: str) -> None:
    assert cells(word) == width_of(word)


def test_a_place_is_only_serialised_again_when_it_was_renamed() -> None:
    place = Place(1, PATH, parse(PATH), Pod(UID))
    first = place.json()
    assert place.json()[0] is first[0]
    place.rename(Pod(UID), None)
    assert place.json()[0] is first[0]
    place.rename(Pod(UID, "shop", "web"), None)
    assert place.json()[0] is not first[0]
