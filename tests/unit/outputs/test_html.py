# SPDX-License-Identifier: Apache-2.0
"""The page: nothing in it runs but its own script, it is no larger than it may be, and it says the
same without the script. What it does in a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.ktrace import ROOT, run
from tests.support.wait import wait_for
from tests.unit.kubernetes.objects import event as kube_event
from tests.unit.kubernetes.objects import listed
from tests.unit.kubernetes.objects import pod as kube_pod
from tests.unit.outputs.hostile import ATTACKS, hostile
from tests.unit.recording.test_recording import CID, DATA, UID
from tests.unit.why.disks import file_system
from tests.unit.why.locks import lock
from tests.unit.why.test_causes import STORIES
from tests.unit.why.test_reasons import stop
from tests.unit.why.world import CLOCK, HOST, INIT, World, place_of, process
from tracer import probes
from tracer.kubernetes.objects import facts
from tracer.model.event import Clock, Event, Place, Process
from tracer.model.kubernetes import Facts
from tracer.outputs.exporters import Ending, Target
from tracer.outputs.exporters.html import EXPORTER, MAX_LOSSES, folding
from tracer.outputs.exporters.html import page as html_page
from tracer.outputs.exporters.html.aliases import Aliases
from tracer.outputs.exporters.html.details import MAX_DETAILS
from tracer.outputs.exporters.html.folding import MAX_ROWS, Folding
from tracer.probes import by_process
from tracer.session.patterns import Pattern
from tracer.why.render import to_event

# Keys of bodies whose values are names.
NAMED = frozenset(("address", "path", "mount", "device", "cgroup_path", "comm", "container"))
RUNBOOK = ROOT / "docs" / "runbook"
FIRST = DATA / "format-1.0.ktrace"


class Parsed(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._in: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.inside:
            self._in = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in:
            self.inside[self._in][-1] += data
        else:
            self.text += data


def report(recording: Path, folder: Path, *arguments: str) -> str:
    out = folder / "page.html"
    ended = run("report", str(recording), "-o", str(out), *arguments)
    assert ended.returncode == 0, ended.stderr
    return out.read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Parsed(page).inside["script"][0])
    return found


def details(data: dict[str, Any], row: int) -> dict[str, Any]:
    """As the page's script puts them together."""

    def whole(text: str) -> str:
        return re.sub(r'\{"\$":(\d+)\}', lambda n: whole(data["parts"][int(n[1])]), text)

    told: dict[str, Any] = json.loads(whole(data["bodies"][data["rows"][row][8]]))
    return told


def test_nothing_runs_but_its_own_script(tmp_path: Path) -> None:
    page = report(hostile(tmp_path), tmp_path)
    parsed = Parsed(page)
    kinds = [attributes.get("type") for tag, attributes in parsed.elements if tag == "script"]
    assert kinds == ["application/json", None]
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "link", "base", "form"} & set(tags)
    for _, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert (attributes.get("href") or "#").startswith("#")
        assert "src" not in attributes
    policy = next(a["content"] for _, a in parsed.elements if "http-equiv" in a) or ""
    for directive, text in (
        ("script", parsed.inside["script"][1]),
        ("style", parsed.inside["style"][0]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_what_cannot_be_seen_is_shown_escaped(tmp_path: Path) -> None:
    page = report(hostile(tmp_path), tmp_path)
    outside = page.replace("\n", " ")
    assert not [sign for sign in outside if not sign.isprintable()]
    parsed = Parsed(page)
    assert "a\\u202eb\\u200b" in parsed.text
    assert ATTACKS[0] in parsed.text, "as text"
    told = details(data_of(page), 0)
    assert told["target"]["argv"][:3] == list(ATTACKS[:3]), "JSON has it as it was"


def test_a_page_says_all_without_its_script(tmp_path: Path) -> None:
    text = " ".join(Parsed(report(FIRST, tmp_path)).text.split())
    (verdict,) = (
        json.loads(line) for line in run("why", str(FIRST), "-o", "json").stdout.splitlines()
    )
    for words in (
        "1 container ended or was hurt",
        "19,137 events were lost",
        "node node-7, 2023-11-14, 22:13:25.000 to 22:13:27.000 UTC",
        verdict["remedy"],
        verdict["headline"],
        "likely: 19137 signals events were lost in the minute before",
        "Linux 6.1.0 x86_64",
        "before 22:13:25.000 UTC: tracing had not begun",
        "after 22:13:27.000 UTC: tracing had ended",
        "from the sender to the target",
    ):
        assert words in text
    assert "shop/web-0" in text


def test_the_script_has_every_event(tmp_path: Path) -> None:
    data = data_of(report(FIRST, tmp_path))
    lines = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_text().splitlines()]
    events = [line for line in lines if line["kind"] != "lost"]
    assert sum(row[2] for row in data["rows"]) == len(events) == len(data["rows"])
    for number, (row, event) in enumerate(zip(data["rows"], events, strict=True)):
        assert int(data["zero"]) + row[0] == event["boot_ns"]
        assert data["kinds"][row[5]] == event["kind"]
        told = {k: v for k, v in event.items() if k not in ("kind", "time", "boot_ns", "node")}
        assert details(data, number) == told
    assert [span[2] for span in data["spans"]] == ["19137 signals events lost"]
    (evidence,) = data["evidence"]
    kinds = [data["kinds"][data["rows"][n][5]] for n in evidence]
    assert kinds == ["signal", "exit"]
    assert json.loads(data["told"][0])["verdict"] == "killed_by_suspicious_process"


def test_links_lead_somewhere(tmp_path: Path) -> None:
    parsed = Parsed(report(FIRST, tmp_path))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for tag, a in parsed.elements if tag == "a"]
    assert len(targets) > 10
    assert {str(target)[1:] for target in targets} <= set(ids)


def test_an_export_is_the_same_page(tmp_path: Path) -> None:
    page = report(FIRST, tmp_path)
    out = tmp_path / "export.html"
    run("export", str(FIRST), "-f", "html", "-o", str(out))
    assert out.read_text(encoding="utf-8") == page
    assert out.stat().st_mode & 0o777 == 0o600
    assert run("report", str(FIRST)).stdout == page


def test_no_page_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "there").symlink_to(victim)
    assert run("report", str(FIRST), "-o", str(tmp_path / "there")).returncode == 1
    assert victim.read_text() == "mine"


def test_selectors(tmp_path: Path) -> None:
    page = report(FIRST, tmp_path, "--from", "+52ms", "-p", "shop/web-0")
    kinds = data_of(page)["kinds"]
    assert set(kinds) == {"exit", "backlog_drop"}
    assert "Only what was chosen is shown: --pod shop/web-0 --from +52ms" in Parsed(page).text
    assert run("report", str(FIRST), "-p", "nobody", "-o", str(tmp_path / "x")).returncode == 5


def test_without_arguments(tmp_path: Path) -> None:
    assert "daemon off" in report(FIRST, tmp_path)
    page = report(FIRST, tmp_path, "--no-argv")
    assert "daemon off" not in page
    assert all(part != '"argv"' for part in data_of(page)["parts"])


@pytest.mark.parametrize("recording", [FIRST, None])
def test_aliases(tmp_path: Path, recording: Path | None) -> None:
    page = report(recording or hostile(tmp_path), tmp_path, "--anonymize")
    parsed = Parsed(page)
    whole = parsed.text + parsed.inside["script"][0]
    for name in ("node-7", "web-0", "shop", "nginx", "pkill", UID, CID, "daemon off", "attacked"):
        assert name not in whole.replace("x.html", ""), name
    assert "pod-1" in parsed.text
    assert "killed: SIGKILL from process-" in parsed.text


def test_nothing_leaks_of_any_kind_of_event_or_verdict() -> None:
    """Of every story that `why` knows, and of what Kubernetes says of an end."""
    stories: list[Callable[[World], object]] = [tell for tell, _, _ in STORIES.values()]
    worlds = [Kept() for _ in stories]
    for tell, made in zip(stories, worlds, strict=True):
        tell(made)
    worlds += of_kubernetes()
    state = {"state": "full", "file_system": file_system()}
    worlds[-1].kept.append(Event("disk_state", 1, None, None, state))
    lock(worlds[-1], "waiting")
    told: set[str] = set()
    for n in range(0, len(worlds), 20):
        out = io.BytesIO()
        plain = replace(target(out), clock=CLOCK, node="secret-node", anonymous=True)
        sink = EXPORTER.make(replace(plain, title="secret-file", chosen="-p secret-glob-*"))
        names = {"secret-node", "secret-file", "secret-glob"}
        names |= {"AcmeSet", "web-7b", "zqprogram", "zqwords"}
        for made in worlds[n : n + 20]:
            verdicts = [to_event(one, CLOCK) for one in made.explained()]
            for event in (*made.kept, *verdicts):
                sink.event(event)
                names |= set(names_in(event))
                told |= {event.kind, str(event.body.get("verdict"))}
        sink.close()
        parsed = Parsed(out.getvalue().decode())
        whole = parsed.text + parsed.inside["script"][0]
        # words that ktrace says of its own accord
        for name in names - {"kubelet", "init", "runc", "pause"}:
            leak = re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", whole)
            assert leak is None, (name, whole[max(0, leak.start() - 60) : leak.end() + 60])
    kinds = {"signal", "exit", "oom", "tcp_reset", "backlog_drop", "packet_drop", "connect_failure"}
    assert kinds | {"disk_failure", "disk_state", "disk_file", "file_lock"} <= told
    assert "the pod was deleted by kind-" in whole


class Kept(World):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Event] = []

    def add(self, event: Event) -> Event:
        self.kept.append(event)
        return super().add(event)


def of_kubernetes() -> Iterator[Kept]:
    """Ends that Kubernetes explains with names of its own."""
    probed = kube_pod()
    (container,) = probed["spec"]["containers"]
    container["livenessProbe"] = {"exec": {"command": ["zqprogram", "-A"]}, "periodSeconds": 2}
    deleted = kube_event("SuccessfulDelete", "Deleted pod: web-0", kind="AcmeSet", name="web-7b")
    failed = kube_event("Unhealthy", "Liveness probe failed: zqwords", first=9, last=9)
    killed = kube_event("Killing", "Container app failed liveness probe, will be restarted")
    for said in ((deleted, kube_pod()), (failed, killed, probed)):
        made = Kept()
        made.timelines.facts = Facts()
        made.timelines.facts.learn(facts(listed(*said)))
        stop(made, after_ms=2500)
        yield made


def names_in(value: Any, key: str = "") -> Iterator[str]:
    """What a node, Kubernetes or a container chose."""
    if isinstance(value, Event):
        for part in (value.place, value.by_place, value.about, value.by, value.body):
            yield from names_in(part)
    elif isinstance(value, Process):
        every = value.comm, value.exe, *(comm for _, comm in value.ancestry)
        yield from (name for name in every if name)
        yield from names_in(value.place)
    elif isinstance(value, Place):
        pod, container = value.pod, value.container
        every = (pod.namespace, pod.name, pod.uid) if pod else ()
        of_container = (container.name, container.id) if container else ()
        yield from (name for name in (*every, *of_container, value.path) if name)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from names_in(inner, name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from names_in(inner, key)
    elif isinstance(value, str) and key in NAMED and not re.fullmatch(r"\d+:\d+", value):
        yield value


def test_an_alias_is_the_same_everywhere() -> None:
    aliases = Aliases()
    aliases.learn("pod", "web-0")
    aliases.learn("namespace", "shop")
    aliases.learn("process", "odd name")
    aliases.learn("address", "10.0.0.1")
    told = aliases.text('shop/web-0: odd name[7] of 10.0.0.1:80 and web-01 said "secret", /a/b')
    assert told == "namespace-1/pod-1: process-1[7] of address-1:80 and web-01 said “…”, path-1"
    assert aliases.text("web-0") == "pod-1"
    assert aliases.text("x[9] of fd00::7 in /a/b") == "process-2[9] of address-2 in path-1"
    assert aliases.json({"argv": ["a"], "kind": "web-0", "comm": "odd name", "pid": 7}) == {
        "argv": None,
        "kind": "web-0",
        "comm": "process-1",
        "pid": 7,
    }


@pytest.mark.parametrize("harm", ["cut", "damaged"])
def test_damage_is_said_in_the_page(tmp_path: Path, harm: str) -> None:
    whole = FIRST.read_bytes()
    file, out = tmp_path / "x.ktrace", tmp_path / "page.html"
    file.write_bytes(whole[:-10] if harm == "cut" else whole[:-10] + b"\0" + whole[-9:])
    ended = run("report", str(file), "-o", str(out))
    assert ended.returncode == (0 if harm == "cut" else 6)
    text = Parsed(out.read_text(encoding="utf-8")).text
    assert "The recording is not whole" in text
    assert "tracing had ended" not in text, "which is not known"


def test_no_recording_costs_no_earlier_page(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text("kept")
    assert run("report", "none.ktrace", "-o", str(earlier)).returncode == 6
    assert earlier.read_text() == "kept"
    assert "the page is in" not in run("report", "none.ktrace", "-o", str(earlier)).stderr


def test_a_page_that_nobody_named(tmp_path: Path) -> None:
    """On a terminal it is a file named after the recording, which costs no other file."""
    recording = tmp_path / "an incident.ktrace"
    recording.write_bytes(FIRST.read_bytes())
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" > {shlex.quote(str(tmp_path / "opened"))}\n')
    opener.chmod(0o755)
    made = on_a_terminal(tmp_path, "report", recording.name)
    page = tmp_path / "an incident.html"
    assert "ktrace: the page is in an incident.html" in made
    assert page.read_text(encoding="utf-8") == run("report", str(recording)).stdout
    assert page.stat().st_mode & 0o777 == 0o600
    page.write_text("another")
    refused = on_a_terminal(tmp_path, "report", recording.name, "--open")
    assert "an incident.html is there already" in refused
    assert "-o 'an incident.html' writes over it" in refused
    assert page.read_text() == "another"
    assert not (tmp_path / "opened").exists()
    page.unlink()
    on_a_terminal(tmp_path, "report", recording.name, "--open")
    wait_for("the browser", (tmp_path / "opened").exists)
    assert "Content-Security-Policy" in page.read_text(encoding="utf-8")
    assert wait_for("its page", (tmp_path / "opened").read_text).strip() == str(page)
    assert "ktrace: the page is in" in run("report", str(FIRST), "-o", str(page)).stderr
    assert run("report", str(FIRST), "--open", "-o", "-").returncode == 2


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """What ktrace shows there, run in this folder, whose programs come first."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tracer", *arguments]
    subprocess.run(
        command,
        check=False,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    told = b""
    with suppress(OSError):  # the end, on Linux
        while more := os.read(ours, 65536):
            told += more
    os.close(ours)
    return told.decode()


def target(out: io.BytesIO) -> Target:
    kinds = {kind: probe for probe in map(probes.get, probes.names()) for kind in probe.whose}
    return Target(out, Clock(0), "node", kinds, list, ending=Ending())


def ends(count: int, alike: bool = False) -> list[Event]:
    """Exits of as many processes, none of which has anything in common with another."""
    events: list[Event] = []
    for n in range(count):
        name = "worker" if alike else f"worker-{n}"
        who = process(7 if alike else 1000 + n, name, HOST, exe=f"/usr/bin/{name}")
        body = {"process": who, "exit_code": n % 200, "signal": None, "core_dumped": False}
        body |= {"container_exit": False, "meaning": "the program's own code"}
        events.append(Event("exit", 1_000_000 * n, who, None, body))
    return events


def test_ten_thousand_events_are_a_small_page() -> None:
    out = io.BytesIO()
    sink = EXPORTER.make(target(out))
    for event in ends(10_000):
        sink.event(event)
    sink.close()
    assert len(out.getvalue()) < 1_500_000
    page = out.getvalue().decode()
    rows = data_of(page)["rows"]
    assert MAX_ROWS // 3 < len(rows) <= MAX_ROWS
    assert sum(row[2] for row in rows) == 10_000
    assert "10,000 events are" in Parsed(page).text


@pytest.mark.parametrize("alike", [True, False])
def test_folding_counts_everything(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    def alarm(event: Event) -> bool:
        return event.body["exit_code"] == 137

    folded = Folding(alarm, by_process, most=50)
    events = ends(2000, alike)
    for event in events:
        folded.add(event)
    rows = folded.rows()
    assert len(rows) <= 50
    assert folded.events == sum(row.count for row in rows) == 2000
    assert sum(row.count for row in rows if row.alarm) == 10, "what stands out stays apart"
    assert {row.alarm for row in rows if alarm(row.event)} == {True}
    assert min(row.first_ns for row in rows) == 0
    assert max(row.last_ns for row in rows) == events[-1].boot_ns


def test_nothing_is_folded_without_need() -> None:
    folded = Folding(lambda event: False, by_process)
    for event in ends(folding.MAX_ROWS, alike=True):
        folded.add(event)
    assert len(folded.rows()) == folding.MAX_ROWS


def test_what_makes_no_sense_costs_no_page() -> None:
    """As a recording that somebody made up may hold."""
    out = io.BytesIO()
    sink = EXPORTER.make(target(out))
    sink.event(Event("exit", (1 << 64) - 1, INIT, None, {"exit_code": 1 << 70}))
    sink.event(Event("exit", 5, process(1 << 70), None, {"exit_code": 3, "container_exit": True}))
    sink.close()
    assert len(data_of(out.getvalue().decode())["rows"]) == 2


def verdict(n: int) -> Event:
    body = {
        **{"verdict": "exited", "sentence": f"ended {n}", "certainty": "certain", "doubts": []},
        **{"reasons": [], "hints": [], "headline": "Exited", "evidence": [], "remedy": "nothing"},
        **{"timeline": [], "others": []},
    }
    return Event("verdict", n, None, None, body, place_of(f"{n:064x}"))


def test_what_a_page_holds_is_bounded() -> None:
    out = io.BytesIO()
    sink = EXPORTER.make(target(out))
    for n in range(1500):
        who = process(n + 1, "app", place_of(f"{n:064x}", uid=f"pod-{n}"), exe=f"/{'x' * 500}{n}")
        sink.event(Event("exit", n, who, None, {"process": who, "exit_code": 0, "signal": None}))
        sink.event(verdict(n))
        since = Clock(0).iso(n)
        sink.event(Event("lost", n, None, None, {"probe": "exits", "count": 2, "since": since}))
    sink.close()
    page = out.getvalue().decode()
    data, parsed = data_of(page), Parsed(page)
    assert sum(row[2] for row in data["rows"]) == 1500
    assert len(data["lanes"]) == html_page.MAX_LANES
    assert max(row[3] for row in data["rows"]) == html_page.MAX_LANES - 1
    assert len(data["told"]) == len(data["marks"]) == html_page.MAX_TOLD
    assert f"{1500 - html_page.MAX_TOLD} more are not in this page" in parsed.text
    assert "1497 more follow below. The page shows" in " ".join(parsed.text.split())
    assert len(data["spans"]) == MAX_LOSSES
    assert sum(map(len, data["parts"] + data["bodies"])) < MAX_DETAILS + 4096
    assert any(row[8] < 0 for row in data["rows"])
    assert len([tag for tag, _ in parsed.elements if tag == "tr"]) <= 3 * (html_page.MAX_TABLE + 1)
    assert len(page) < 2_000_000


def test_patterns_are_folded_as_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if there are more patterns than are remembered."""
    monkeypatch.setattr(folding, "MAX_PATTERNS", 2)
    patterns = [Pattern(event) for event in ends(5)]
    sighted = Folding(lambda event: False, by_process, most=20)
    one_by_one = Folding(lambda event: False, by_process, most=20)
    for n in range(500):
        sighted.sight([(n * 1_000_000, patterns[n % 5])])
        one_by_one.add(patterns[n % 5].at(n * 1_000_000))
        assert len(sighted._of_patterns) <= 2
    told = [
        [(row.first_ns, row.last_ns, row.count, row.event.about) for row in folded.rows()]
        for folded in (sighted, one_by_one)
    ]
    assert told[0] == told[1]
    assert sighted.events == one_by_one.events == 500


@pytest.mark.parametrize("path", sorted(RUNBOOK.glob("*.md")), ids=lambda path: path.stem)
def test_the_runbook_leads_to_reports_of_its_incidents(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "<!-- incident: " not in text:
        return
    assert f"(reports/{path.stem}.html)" in text
    data = data_of((path.parent / "reports" / f"{path.stem}.html").read_text(encoding="utf-8"))
    assert data["rows"]
    assert any(data["told"])
    pods = {lane[1] for lane in data["lanes"] if lane[1]}
    assert not {pod for pod in pods if not pod.startswith(("shop/web-0", "system/"))}
