# SPDX-License-Identifier: Apache-2.0
"""A real browser: Debian's Chromium without a screen, by its driver (W3C WebDriver)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from tests.support.otlp import free_port
from tests.support.wait import wait_for

KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Down": "\ue015", "Left": "\ue012"}
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    def __init__(self, base: str, session: str) -> None:
        self._session = f"{base}/session/{session}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _ask(method, f"{self._session}{path}", body)

    def open(self, address: str) -> None:
        """Also if only what is behind the `#` is another."""
        self.ask("POST", "/url", {"url": "about:blank"})
        self.ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """A function's body in the page; it may return a promise."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, what: str, script: str, *arguments: Any) -> Any:
        return wait_for(what, lambda: self.run(script, *arguments), interval=0.05)

    def press(self, *keys: str) -> None:
        strokes = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": strokes}]})

    def pointer(self, kind: str, *steps: dict[str, Any]) -> None:
        """`kind` is mouse or touch."""
        about = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        self.ask("POST", "/actions", {"actions": [{**about, "actions": list(steps)}]})

    def resize(self, width: int, height: int) -> None:
        self.ask("POST", "/window/rect", {"width": width, "height": height})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self) -> bytes:
        return base64.b64decode(self.ask("GET", "/screenshot"))

    def pdf(self) -> bytes:
        return base64.b64decode(self.ask("POST", "/print", {}))

    def log(self) -> list[dict[str, Any]]:
        """What the browser has complained of since the last call."""
        found: list[dict[str, Any]] = self.ask("POST", "/se/log", {"type": "browser"})
        return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    program = shutil.which("chromium")
    assert driver and program, "apt-get install chromium chromium-driver"
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/driver", "wb") as said:
        process = subprocess.Popen(
            [driver, f"--port={port}"],
            stdout=said,
            stderr=said,
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
        )
        try:
            wait_for("the driver", lambda: _is_ready(base))
            chromium = {"binary": program, "args": [*OPTIONS, f"--user-data-dir={folder}/profile"]}
            wanted = {"goog:chromeOptions": chromium, "goog:loggingPrefs": {"browser": "ALL"}}
            made = _ask("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
            found = Browser(base, made["sessionId"])
            try:
                yield found
            finally:
                found.ask("DELETE", "")
        finally:
            process.terminate()
            process.wait()


def axe() -> str:
    """The accessibility checker's program."""
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


def _ask(method: str, address: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address, data, {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()[:2000]) from error


def _is_ready(base: str) -> bool:
    try:
        return bool(_ask("GET", f"{base}/status")["ready"])
    except (OSError, AssertionError):
        return False
