# SPDX-License-Identifier: Apache-2.0
"""The bundle as a service of systemd, with the unit that the packages bring: a stage of the guest
that has systemd."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from deploy.packages.build import HOME, UNIT_FILES
from tests.lab.image import Additions
from tests.lab.staging import Stage
from tests.support import bundle

NAME = "ktrace-flight"
RECORDINGS = Path("/var/lib/ktrace")
# Every service waits for these.
TARGETS = ("sysinit.target", "basic.target", "shutdown.target")


def additions() -> Additions:
    empty = b"[Unit]\nDefaultDependencies=no\n"
    return Additions(
        trees=((HOME, bundle.bundle()),),
        contents=(
            ("/usr/bin/ktrace", f'#!/bin/sh\nexec {HOME}/ktrace "$@"\n'.encode()),
            *((f"/etc/systemd/system/{unit.name}", unit.read_bytes()) for unit in UNIT_FILES),
            *((f"/etc/systemd/system/{name}", empty) for name in TARGETS),
        ),
    )


def recorded(stage: Stage) -> list[dict[str, Any]]:
    """What the service keeps of processes that are killed, and what systemd says of it."""
    systemctl("start", NAME)
    killed: list[int] = []

    def recordings() -> list[Path]:
        victim = subprocess.Popen(["sleep", "1000"])
        killed.append(victim.pid)
        victim.kill()
        victim.wait()
        return list(RECORDINGS.glob("flight-*.ktrace"))

    stage.wait("a recording", recordings)
    running = shown("ActiveState", "NRestarts", "MemoryCurrent", "MemoryHigh", "StateDirectoryMode")
    systemctl("stop", NAME)
    files = RECORDINGS.glob("flight-*.ktrace")
    signals = [event for file in files for event in replayed(file) if event["kind"] == "signal"]
    targets = {event["target"]["pid"] for event in signals}
    targets &= set(killed)
    return [{**running, "after": shown("ActiveState", "Result"), "targets": len(targets)}]


def replayed(file: Path) -> list[dict[str, Any]]:
    command = ["ktrace", "replay", str(file), "-o", "json", "--all"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in told.stdout.splitlines()]


def shown(*names: str) -> dict[str, str]:
    lines = systemctl("show", NAME, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
