# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: it is looked at, moved, searched, used by keyboard alone, attacked,
printed, and checked for accessibility."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, axe, browser
from tests.support.ktrace import run
from tests.unit.outputs.hostile import ATTACKS, hostile
from tests.unit.recording.test_recording import DATA

FIRST = DATA / "format-1.0.ktrace"
LINES = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_text().splitlines()]
LISTED = "return document.querySelectorAll('#events tbody tr').length"
TITLE = (
    "const d = document.getElementById('details'); return d.open && d.firstElementChild.textContent"
)
READY = "return document.getElementById('view').textContent !== ''"
VIEW = "return document.getElementById('view').textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(FIRST, tmp_path_factory.mktemp("page"))


def made(recording: Path, folder: Path, *words: str) -> str:
    out = folder / "page.html"
    ended = run("report", str(recording), "-o", str(out), *words)
    assert ended.returncode == 0, ended.stderr
    return out.as_uri()


@pytest.fixture
def shown(chromium: Browser, page: str) -> Browser:
    chromium.resize(1280, 1000)
    chromium.open(page)
    chromium.until("the list", READY)
    return chromium


def moved(shown: Browser, before: str) -> str:
    """The view, when it is another than before."""
    found: str = shown.until(
        "another view", f"const v = ({VIEW[7:]}); return v !== arguments[0] && v", before
    )
    return found


def test_what_is_drawn(shown: Browser) -> None:
    events = [line for line in LINES if line["kind"] != "lost"]
    assert shown.run(LISTED) == len(events)
    for sign in (
        "path.alarm",
        "path.event",
        "path.verdict",
        "path.arrow",
        ".lost",
        ".life",
        ".unwatched",
    ):
        assert shown.run(
            "return document.querySelectorAll(arguments[0]).length", f"#picture {sign}"
        )
    assert shown.log() == [], "the browser complains of nothing"


def test_zoom_and_pan(shown: Browser) -> None:
    whole = shown.run(VIEW)
    middle = {"type": "pointerMove", "x": 600, "y": 0, "origin": "viewport"}
    shown.run("document.getElementById('timeline').scrollIntoView({block: 'center'})")
    box = shown.run(
        "const b = document.getElementById('timeline').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]"
    )
    middle["y"] = int(box[1] + box[3] / 2)
    shown.pointer(
        "mouse", middle, *({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp") * 2)
    )
    near = moved(shown, whole)
    assert len(shown.run("return location.hash")) > 10
    down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
    shown.pointer("mouse", middle, down, {**middle, "x": 700}, {**middle, "x": 800}, up)
    before = moved(shown, near)
    assert before < near, "dragged to the right, earlier moments come"
    wheel = {
        "type": "scroll",
        "x": 600,
        "y": middle["y"],
        "deltaX": 0,
        "deltaY": -200,
        "origin": "viewport",
    }
    hold = {
        "type": "key",
        "id": "k",
        "actions": [
            {"type": "keyDown", "value": "\ue009"},
            {"type": "pause"},
            {"type": "keyUp", "value": "\ue009"},
        ],
    }
    roll = {"type": "wheel", "id": "w", "actions": [{"type": "pause"}, wheel, {"type": "pause"}]}
    shown.ask("POST", "/actions", {"actions": [hold, roll]})
    nearer = moved(shown, before)
    shown.run("document.getElementById('timeline').focus()")
    shown.press("+")
    nearest = moved(shown, nearer)
    shown.press("Left")
    earlier = moved(shown, nearest)
    assert earlier < nearest
    shown.press("0")
    assert moved(shown, earlier) == whole


def test_two_fingers(shown: Browser) -> None:
    """By events, as the driver's own fingers are one."""
    before = shown.run(VIEW)
    shown.run(
        """const t = document.getElementById("timeline");
        const send = (type, pointerId, clientX) => t.dispatchEvent(
            new PointerEvent(type, {pointerId, clientX, bubbles: true, pointerType: "touch"}));
        send("pointerdown", 11, 500); send("pointerdown", 12, 600); send("pointermove", 12, 900);
        send("pointerup", 11, 500); send("pointerup", 12, 900);"""
    )
    moved(shown, before)


def test_the_list_follows(shown: Browser, page: str) -> None:
    everything = shown.run(LISTED)
    shown.open(f"{page}#t=0.051..0.0535")
    fewer = shown.until(
        "a shorter list", f"const n = ({LISTED[7:]}); return n && n < arguments[0] && n", everything
    )
    inside = [
        e for e in LINES if 5_051_000_000 <= e["boot_ns"] <= 5_053_500_000 and e["kind"] != "lost"
    ]
    assert fewer == len(inside)


def test_search(shown: Browser) -> None:
    field = """const f = document.getElementById("search");
        f.value = arguments[0]; f.dispatchEvent(new Event("input"));"""
    wanted: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
        ("sigkill", lambda e: "SIGKILL" in json.dumps(e.get("signal"))),
        ("-p shop/web-*", lambda e: e["pod"] is not None),
        ("-p nobody", lambda e: False),
        ("-n sh* -c nginx", lambda e: e["container"] is not None),
        ("-l app=web,tier", lambda e: e["pod"] is not None),
        ("-l app=db", lambda e: False),
    ]
    for words, wants in wanted:
        shown.run(field, words)
        count = len([e for e in LINES if e["kind"] != "lost" and wants(e)])
        shown.until(f"{count} rows by {words}", f"return ({LISTED[7:]}) === arguments[0]", count)


def test_the_address_holds_the_view(shown: Browser, page: str) -> None:
    shown.open(f"{page}#pod=shop/nobody")
    shown.until("nothing", f"return ({LISTED[7:]}) === 0")
    shown.open(f"{page}#t=0.05..0.06&q=exit")
    view = shown.until("the view", VIEW)
    assert "22:13:25.050 to 22:13:25.060" in view
    assert shown.run(LISTED) > 0
    assert shown.run("return document.getElementById('search').value") == "exit"
    for nonsense in ("t=x..y", "t=9..1", "e=999", "e=x", "v=7", "q=%", "=", "t=NaN..1&e=-1&pod=["):
        shown.open(f"{page}#{nonsense}")
        shown.until(
            "a list",
            f"return ({LISTED[7:]}) >= 0 && document.getElementById('view').textContent !== ''",
        )
    assert shown.log() == []


def test_an_event_by_keyboard_alone(shown: Browser) -> None:
    shown.run("document.body.focus()")
    for _ in range(80):
        shown.press("Tab")
        if shown.run("return document.activeElement.matches('#events button')"):
            break
    first = shown.run("return document.activeElement.textContent")
    shown.press("Down")
    second = shown.run("return document.activeElement.textContent")
    assert second != first
    shown.press("Enter")
    assert shown.until("the details", TITLE) == second
    text = shown.run("return document.getElementById('details-lines').textContent")
    assert "ancestry" in text
    assert "nginx[10]" in text
    shown.press("Escape")
    shown.until("no details", "return !document.getElementById('details').open")
    shown.until("the focus", "return document.activeElement.textContent === arguments[0]", second)
    shown.press("Down")
    third = shown.run("return document.activeElement.textContent")
    assert third not in (first, second), "one goes on where one was"


def test_evidence_and_back(shown: Browser) -> None:
    shown.run("document.querySelector('.steps .evidence a').click()")
    title = shown.until("the evidence", TITLE)
    assert "SIGKILL" in title
    shown.run("document.querySelector('#details-links a').click()")
    shown.until("no details", "return !document.getElementById('details').open")
    assert shown.run("return document.querySelectorAll('path.verdict.chosen').length") in (0, 1)
    shown.until("the verdict's mark", "return document.querySelector('path.verdict.chosen')")


def test_copied_json_is_the_events(shown: Browser) -> None:
    shown.run(
        """window.copied = [];
        const clipboard = {writeText: async (text) => { window.copied.push(text); }};
        Object.defineProperty(navigator, "clipboard", {value: clipboard});"""
    )
    shown.run("document.querySelector('#events tbody button').click()")
    shown.until("the details", TITLE)
    shown.run(
        "document.getElementById('copy-json').click(); document.getElementById('copy-text').click()"
    )
    as_json, as_text = shown.until("both", "return window.copied.length === 2 && window.copied")
    assert json.loads(as_json) == LINES[0]
    assert "SIGHUP from" in as_text
    shown.run("document.querySelector('button.copy[data-as=json]').click()")
    verdict = shown.until("the verdict", "return window.copied[2]")
    assert json.loads(verdict)["verdict"] == "killed_by_suspicious_process"


def test_attacks_are_text(chromium: Browser, tmp_path: Path) -> None:
    """With a function that they would call, also when everything of each event is shown."""
    address = made(hostile(tmp_path), tmp_path)
    chromium.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.ran = 0; window.attacked = () => { window.ran++; };",
    )
    chromium.open(address)
    chromium.until("the list", READY)
    rows = chromium.run(LISTED)
    assert rows == 3
    for n in range(rows):
        chromium.run("document.querySelectorAll('#events tbody button')[arguments[0]].click()", n)
        chromium.until("the details", TITLE)
        text = chromium.run("return document.getElementById('details-lines').textContent")
        assert ATTACKS[0] in text
        assert "\\u202e" in text
        assert not set("\u202e\u200b\u2066\ufeff") & set(text)
        chromium.press("Escape")
    chromium.run(
        """for (const one of document.querySelectorAll("main *"))
            for (const name of ["error", "load"]) one.dispatchEvent(new Event(name));"""
    )
    assert chromium.run("return window.ran") == 0
    assert (
        chromium.run(
            "const never = 'img, iframe, object, embed, svg svg, [onload], [onerror]';"
            " return document.querySelectorAll(never).length"
        )
        == 0
    )
    shown = chromium.run("return document.body.innerText")
    assert not set("\u202e\u200b\u2066\ufeff") & set(shown)
    chromium.log()
    blocked = chromium.run(
        """const script = document.createElement("script"), within = document.createElement("div");
        script.textContent = "window.ran++";
        within.innerHTML = "<img src=x onerror='window.ran++'>";
        document.body.append(script, within);
        return window.ran;"""
    )
    assert blocked == 0, "and what got in all the same would not run"
    complaints = " ".join(entry["message"] for entry in chromium.log())
    assert "Content Security Policy" in complaints


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(shown: Browser, page: str, theme: str) -> None:
    shown.devtools(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}]
    )
    try:
        for opened in (False, True):
            if opened:
                shown.run("document.querySelector('#events tbody button').click()")
                shown.until("the details", TITLE)
            shown.run(f"{axe()}; window.axe = window.axe || axe;")
            found: list[dict[str, Any]] = shown.run(
                "return axe.run(document, {runOnly: arguments[0]}).then((r) => r.violations)",
                ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
            )
            told = [(v["id"], [node["html"][:200] for node in v["nodes"]][:3]) for v in found]
            assert told == []
        back = shown.run("return getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") is (theme == "light")
        shown.run(
            "document.getElementById('details').close(); document.getElementById('theme').click()"
        )
        assert shown.run("return getComputedStyle(document.body).backgroundColor") != back
    finally:
        shown.devtools("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_nothing_is_wider_than_the_window(chromium: Browser, page: str, width: int) -> None:
    chromium.devtools(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    try:
        chromium.open(page)
        chromium.until("the list", READY)
        assert chromium.run("return document.documentElement.scrollWidth") <= width
        assert chromium.run("return document.querySelector('header').clientHeight") < 200
        shot = chromium.screenshot()
        assert struct.unpack(">II", shot[16:24])[0] == width
    finally:
        chromium.devtools("Emulation.clearDeviceMetricsOverride")


def test_without_javascript(chromium: Browser, page: str) -> None:
    chromium.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(page)
        text = chromium.devtools("DOM.getDocument", depth=0) and chromium.ask("GET", "/source")
        assert "killed: SIGKILL" in text
        assert 'class="verdict"' in text, "and the picture is there"
        assert '<svg id="picture"' in text
    finally:
        chromium.devtools("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper(shown: Browser) -> None:
    pdf = shown.pdf()
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type ?/Page\b", pdf)) <= 2


def test_it_moves_smoothly(shown: Browser) -> None:
    """Frames while it is moved; a busy machine is not judged."""
    frames = shown.run(
        """return new Promise((done) => {
            let n = 0;
            const timeline = document.getElementById("timeline"), begin = performance.now();
            const step = () => {
                const key = n++ % 2 ? "ArrowLeft" : "ArrowRight";
                timeline.dispatchEvent(new KeyboardEvent("keydown", {key}));
                if (n < 30) requestAnimationFrame(step);
                else done(n / (performance.now() - begin) * 1000);
            };
            step();
        })"""
    )
    assert frames > 1
