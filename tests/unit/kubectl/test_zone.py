# SPDX-License-Identifier: Apache-2.0
"""The laptop's time zone, in words for a node that has no time zones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zoneinfo
from datetime import datetime
from pathlib import Path

import pytest

from tracer.kubectl import zone

WINTER, SUMMER = 1_768_478_400, 1_784_116_800  # noon UTC, 15 January and 15 July 2026
SHOWN = "import time; print(*(time.strftime('%H:%M %z', time.localtime(s)) for s in {}))"


@pytest.fixture(autouse=True)
def zones() -> None:
    if not zoneinfo.available_timezones():
        pytest.skip("this machine has no time zones")


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Africa/Casablanca"]
)
def test_a_node_shows_what_this_machine_does(name: str) -> None:
    """By the C library, which is told only the rule."""
    rule = zone.rule(name)
    assert rule
    local = zoneinfo.ZoneInfo(name)
    expected = " ".join(
        datetime.fromtimestamp(moment, local).strftime("%H:%M %z") for moment in (WINTER, SUMMER)
    )
    command = [sys.executable, "-c", SHOWN.format((WINTER, SUMMER))]
    told = subprocess.run(command, env={"TZ": rule}, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == expected


def test_that_of_the_environment() -> None:
    for told in ("Asia/Kathmandu", ":Asia/Kathmandu", "/usr/share/zoneinfo/Asia/Kathmandu"):
        assert zone.rule(environment={"TZ": told}) == "<+0545>-5:45"


def test_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zone, "LOCAL", Path("/usr/share/zoneinfo/Europe/Berlin"))
    assert zone.rule(environment={}) == "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.mark.parametrize(("offset", "expected"), [(5.5, "<+0530>-05:30"), (-3.5, "<-0330>+03:30")])
def test_a_machine_that_has_no_zones(
    offset: float, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zone, "LOCAL", tmp_path / "none")
    monkeypatch.setenv("TZ", expected)
    time.tzset()
    try:
        told = zone.rule(environment={})
        assert told == expected
        assert time.localtime().tm_gmtoff == offset * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_name_that_is_none(tmp_path: Path) -> None:
    assert zone.rule("Europe/Berln") is None
    (tmp_path / "hostile").write_bytes(b"TZif\n$(reboot)\x1b[2J\n")
    assert zone.rule(str(tmp_path / "hostile")) is None
    assert not re.search(r"\s", zone.rule(environment={"TZ": os.devnull}) or " ")
