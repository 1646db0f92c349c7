# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus of Debian, fetched once and not installed: the package starts a service."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from deploy.debian import Apt, locked
from deploy.debian import cache as cached
from tests.support.otlp import free_port
from tests.support.wait import wait_for

SUITE = "bookworm"


@cache
def programs() -> Path:
    """The directory with `prometheus` and `promtool`."""
    directory = cached() / "prometheus"
    directory.mkdir(parents=True, exist_ok=True)
    root = directory / SUITE
    with locked(directory):
        if not root.exists():
            apt = Apt(SUITE, directory / "apt")
            apt.update()
            apt.unpack(["prometheus"], root, print)
    return root / "usr" / "bin"


def promtool(*words: str | Path) -> str:
    """What it says; it must be satisfied."""
    done = subprocess.run(
        [programs() / "promtool", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    def __init__(self, port: int, pid: int) -> None:
        self.pid = pid
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        """Raises HTTPError if it does not like the question."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        found = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> list[Mapping[str, str]]:
        alerts = self.ask("alerts")["alerts"]
        return [one["labels"] for one in alerts if one["state"] == "firing"]


@contextmanager
def prometheus(
    directory: Path, targets: Sequence[str], rules: Sequence[Path] = (), seconds: int = 1
) -> Iterator[Prometheus]:
    """One that scrapes these targets, such as `127.0.0.1:9464/metrics`, every so many seconds."""
    places = [target.partition("/") for target in targets]
    static = [
        {"targets": [host], "labels": {"__metrics_path__": f"/{path}", "instance": target}}
        for target, (host, _, path) in zip(targets, places, strict=True)
    ]
    configuration = {
        "global": {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "ktrace", "static_configs": static}],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(configuration))
    promtool("check", "config", file)
    port = free_port()
    words = [f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    words += [f"--storage.tsdb.path={directory / 'tsdb'}", "--log.level=warn"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([programs() / "prometheus", *words], stdout=log, stderr=log)
    running = Prometheus(port, process.pid)

    def ready() -> bool:
        assert process.poll() is None, (directory / "prometheus.log").read_text()
        try:
            return bool(running.query("vector(1)"))
        except OSError:
            return False

    try:
        wait_for("Prometheus to answer", ready, interval=0.1)
        yield running
    finally:
        process.kill()
        process.wait()
