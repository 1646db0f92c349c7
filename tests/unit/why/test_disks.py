# SPDX-License-Identifier: Apache-2.0
"""Full disks: what is said of them, and what is no verdict."""

from __future__ import annotations

import pytest

from tests.unit.why.disks import (
    PREPARING,
    VOLUME,
    Tell,
    busy,
    evicted,
    failure,
    file_system,
    holder,
    immutable,
    open_file,
    start_failure,
)
from tests.unit.why.world import MIB, World, place_of, process
from tracer.model.event import Event

COUNT = 23
OTHER = place_of("c" * 64, "log", "22222222-7c78-4389-a89c-9c971211370b")

# What is told in the stream and is no fault of a disk that is known to be full.
HARMLESS: dict[str, Tell] = {
    "on a file system that is not known": lambda w: failure(w, system=file_system(None)),
    "where there is room again": lambda w: failure(w, system=file_system([], MIB)),
    "not removed for another reason": lambda w: failure(w, "EPERM", call="unlink"),
    "a file that is written": lambda w: open_file(w, deleted=False),
}


@pytest.mark.parametrize("tell", HARMLESS.values(), ids=HARMLESS.keys())
def test_no_verdict(tell: Tell) -> None:
    world = World()
    tell(world)
    assert world.explained() == []


def test_a_disk_that_is_full_for_another_container() -> None:
    """Its own verdict is the other's alone."""
    world = World()
    failure(world, who=process(40, "logger", OTHER))
    (only,) = world.explained()
    assert only.story.place is OTHER


def test_who_failed_and_who_filled_it() -> None:
    world = World()
    largest = {
        "path": "/var/log/app.log",
        "bytes": 60 * MIB,
        "deleted": True,
        "process": process(40, "logger", OTHER),
    }
    for _ in range(COUNT):
        writer = {"pod": OTHER, "container": "log", "bytes": 3 << 30, "inodes": 7, "seconds": 60}
        failure(world, count=2, largest=[largest], writers=[writer])
    verdict = world.only().verdict
    assert (verdict.id, verdict.harm) == ("disk_full", 2 * COUNT)
    assert verdict.sentence == (
        "46 calls failed with ENOSPC, the last one write of /data/log by app[7] (/bin/app): /data"
        " (ext4, 100 MiB) is full, 0 B are free; most was written by pod shop/web-0 (log):"
        " 3 GiB and made 7 files in 60 s; the largest open file there is /var/log/app.log"
        " (deleted) of logger[40] (/bin/logger) of pod shop/web-0, 60 MiB"
    )


def test_inodes_are_told_apart() -> None:
    world = World()
    failure(world, system=file_system(["inodes"], MIB, 0), call="mkdir", path="/data/d")
    said = world.only().verdict
    assert "is full, 0 of 16 inodes are free" in said.sentence
    assert "too many small files" in said.remedy


def test_all_deleted_files_are_counted() -> None:
    world = World()
    for descriptor in range(3, 8):
        open_file(world, size=descriptor * MIB, descriptor=descriptor)
    said = world.only().verdict
    assert said.sentence == (
        "app[7] (/bin/app) holds 5 deleted files open, 25 MiB on /data (ext4, 100 MiB), which is"
        " full; the largest was /data/log.7"
    )
    assert "truncate -s 0 /proc/7/fd/7" in said.remedy


def both(world: World) -> list[Event]:
    return [failure(world), open_file(world)]


def test_what_failed_comes_before_what_is_held() -> None:
    world = World()
    both(world)
    explanation = world.only()
    assert explanation.verdict.id == "disk_full"
    assert [other.id for other in explanation.others] == ["deleted_but_open"]


def test_what_keeps_a_file_from_being_removed() -> None:
    world = World()
    for _ in range(COUNT):
        immutable(world)
    said = world.only().verdict
    assert said.sentence == (
        "app[7] (/bin/app) could not remove /data/log on /data (ext4, 100 MiB): it is immutable;"
        " 23 times in all"
    )
    assert "chattr -i /data/log" in said.remedy
    world = World()
    immutable(world, "/data/$(x) y", "append-only")
    said = world.only().verdict
    assert ": its directory /data/$(x) y is append-only" in said.sentence
    assert "chattr -a '/data/$(x) y'" in said.remedy


def test_who_holds_a_volume() -> None:
    world = World()
    for _ in range(COUNT):
        busy(world, holder(41, OTHER), holder(42))
    said = world.only().verdict
    assert said.sentence == (
        f"umount[40] (/usr/bin/umount) could not unmount {VOLUME}: it is in use, held by tail[41]"
        f" of pod shop/web-0 (open {VOLUME}/log), tail[42] (open {VOLUME}/log); 23 times in all"
    )
    assert "ps -fp 41 42" in said.remedy
    world = World()
    busy(world)
    assert "by whom was not found" in world.only().verdict.sentence


def test_the_holders_of_a_mount_that_is_asked_for_again() -> None:
    """The last attempt is told before they have been looked for."""
    world = World()
    busy(world, holder(41))
    for number in range(1, COUNT):
        world.at(number)
        busy(world)
    assert world.only().verdict.sentence.endswith(
        f"it is in use, held by tail[41] (open {VOLUME}/log); {COUNT} times in all"
    )


def test_the_runtimes_last_call_that_failed() -> None:
    world = World()
    for call, path, error in (("mount", "/dev/null", "ENOENT"), ("execve", "/nope", "ENOENT")):
        start_failure(world, call, path, error)
    start_failure(world, "execve", "/other", "EACCES", who=process(40, "logger", OTHER))
    world.exit(1, who=PREPARING)
    said = next(one.verdict for one in world.explained() if one.verdict.id == "start_failed")
    assert "; its last call that failed was execve of /nope: ENOENT" in said.sentence


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("The node was low on resource: ephemeral-storage. ", True),
        ("The node was low on resource: inodes. ", True),
        ("The node was low on resource: memory. ", False),
    ],
)
def test_evicted_for_what_it_wrote(message: str, found: bool) -> None:
    world = World()
    evicted(world, message)
    world.exit(by=9)
    (only,) = world.explained()
    every = {verdict.id: verdict for verdict in (only.verdict, *only.others)}
    assert ("evicted_for_disk" in every) is found
    if found:
        assert (
            "the container had written 3 GiB and made 7 files in 60 s on /data (ext4, 100 MiB)"
            in every["evicted_for_disk"].sentence
        )
