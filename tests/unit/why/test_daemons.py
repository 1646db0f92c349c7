# SPDX-License-Identifier: Apache-2.0
"""Programs that kill for want of memory, by their names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.why.world import HOST, World, place_of, process
from tracer.model.event import Process
from tracer.why.daemons import daemons, oom_daemon

SYSTEMD_OOMD = process(50, "systemd-oomd", HOST, exe="/usr/lib/systemd/systemd-oomd")
NOHANG = replace(
    process(51, "nohang", HOST, exe="/usr/bin/python3.11"),
    argv=["python3", "-u", "/usr/sbin/nohang", "--monitor"],
)
UNIT = process(
    52, "worker", replace(HOST, path="/system.slice/fb-oomd.service"), exe="/usr/bin/worker"
)


@pytest.mark.parametrize(
    ("of", "name"), [(SYSTEMD_OOMD, "systemd-oomd"), (NOHANG, "nohang"), (UNIT, "oomd")]
)
def test_which_it_is(of: Process, name: str) -> None:
    found = oom_daemon(of)
    assert found is not None
    assert found.name == name


LOOK_ALIKES = {
    "its file is asked for, and another program runs": replace(
        process(53, "vim", HOST, exe="/usr/bin/vim"), argv=["vim", "/etc/nohang/nohang.conf"]
    ),
    "a name that begins like it": process(54, "earlyoom-exporter", HOST),
    "a slice of that name": process(
        55, "sh", replace(HOST, path="/system.slice/earlyoom.service/sub"), exe="/bin/sh"
    ),
    "nothing known": Process(56, 56),
}


@pytest.mark.parametrize("of", LOOK_ALIKES.values(), ids=LOOK_ALIKES.keys())
def test_look_alikes(of: Process) -> None:
    assert oom_daemon(of) is None


def test_what_is_said() -> None:
    world = World()
    world.signal("SIGKILL", "host", SYSTEMD_OOMD)
    world.exit(by=9)
    verdict = world.only().verdict
    assert verdict.id == "killed_by_oom_daemon"
    assert verdict.sentence.startswith(
        "killed: SIGKILL from systemd-oomd[50] (/usr/lib/systemd/systemd-oomd) on the host;"
        " systemd-oomd kills for want of memory: it kills all processes of a cgroup"
    )
    assert "journalctl -u systemd-oomd" in verdict.remedy
    assert verdict.doubts == (
        "that it was for want of memory follows from what systemd-oomd is for",
    )


def test_in_a_pod() -> None:
    """A DaemonSet's image has its files anywhere."""
    pod = place_of("d" * 64, "earlyoom", "11111111" + "-7c78-4389-a89c-9c971211370b")
    world = World()
    world.signal("SIGKILL", "other-pod", process(57, "earlyoom", pod, exe="/earlyoom"))
    world.exit(by=9)
    assert world.only().verdict.id == "killed_by_oom_daemon"


def test_outside_of_packages() -> None:
    world = World()
    world.signal("SIGKILL", "host", process(58, "earlyoom", HOST, exe="/srv/.x/earlyoom"))
    world.exit(by=9)
    assert world.only().verdict.id == "killed_by_suspicious_process"


def test_each_file_is_complete() -> None:
    assert len(daemons()) >= 5
    for daemon in daemons():
        assert daemon.executables or daemon.scripts
        assert daemon.units
