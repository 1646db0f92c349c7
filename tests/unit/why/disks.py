# SPDX-License-Identifier: Apache-2.0
"""Stories of full disks, as tests.unit.why.test_causes has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.unit.kubernetes.objects import event as kube_event
from tests.unit.kubernetes.objects import listed
from tests.unit.why.world import APP, HOST, INIT, MIB, NETWORK, UID, World, process
from tracer.kubernetes.objects import facts
from tracer.model.event import Event, Place, Process
from tracer.model.kubernetes import Facts

Tell = Callable[[World], Any]


def file_system(
    lacks: Sequence[str] | None = ("blocks",), free: int = 0, free_inodes: int = 5, **how: Any
) -> dict[str, Any]:
    return {
        "type": "ext4",
        "device": "259:1",
        "mount": "/data",
        "lacks": None if lacks is None else list(lacks),
        "size_bytes": 100 * MIB,
        "free_bytes": free,
        "inodes": 16,
        "free_inodes": free_inodes,
        **how,
    }


def failure(
    w: World,
    error: str = "ENOSPC",
    *,
    system: dict[str, Any] | None = None,
    call: str | None = "write",
    path: str | None = "/data/log",
    count: int = 1,
    who: Process = INIT,
    largest: list[dict[str, Any]] | None = None,
    place: Place | None = None,
    **more: Any,
) -> Event:
    body = {
        "error": error,
        "call": call,
        "path": path,
        "file_system": file_system() if system is None else system,
        "process": who,
        "count": count,
        "largest": largest or [],
        "writers": [],
        "attribute": None,
        "attribute_of": None,
        "holders": None,
        **more,
    }
    return w.add(Event("disk_failure", w.now, who, None, body, place))


def open_file(w: World, deleted: bool = True, size: int = 60 * MIB, descriptor: int = 3) -> Event:
    body = {
        "path": f"/data/log.{descriptor}",
        "bytes": size,
        "deleted": deleted,
        "descriptor": descriptor,
        "file_system": file_system(),
        "process": INIT,
    }
    return w.add(Event("disk_file", w.now, INIT, None, body))


def immutable(w: World, of: str = "/data/log", attribute: str = "immutable") -> Event:
    system = file_system([], 50 * MIB)
    about: dict[str, Any] = {"attribute": attribute, "attribute_of": of}
    return failure(w, "EPERM", system=system, call="unlink", **about)


VOLUME = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/x/mount"


def busy(w: World, *holders: dict[str, Any]) -> Event:
    """The kubelet's call, for the pod as a whole."""
    kubelet = process(40, "umount", HOST, exe="/usr/bin/umount")
    system = file_system([], 50 * MIB)
    held: dict[str, Any] = {"holders": list(holders), "place": NETWORK, "who": kubelet}
    return failure(w, "EBUSY", system=system, call="umount2", path=VOLUME, **held)


def holder(pid: int = 41, place: Place | None = None) -> dict[str, Any]:
    own = process(pid, "tail", place)
    return {"how": "open", "path": f"{VOLUME}/log", "process": own}


# The container's first process before its program runs.
PREPARING = process(7, "runc:[2:INIT]", exe="/usr/bin/runc", init=True)


def start_failure(
    w: World, call: str, path: str | None, error: str, who: Process | None = None
) -> Event:
    """Of the container's first process, which is still the runtime's."""
    own = who or PREPARING
    body = {"error": error, "call": call, "path": path, "process": own, "count": 1}
    return w.add(Event("start_failure", w.now, own, None, body))


def evicted(w: World, why: str = "The node was low on resource: ephemeral-storage. ") -> Event:
    """Kubernetes says so of a container that writes."""
    told = Facts()
    told.learn(facts(listed(kube_event("Evicted", why, container=""))))
    w.timelines.facts = told
    body = {"bytes": 3 << 30, "inodes": 7, "seconds": 60, "file_system": file_system()}
    return w.add(Event("disk_writer", w.now, None, None, body, APP))


def read_only(w: World) -> None:
    failure(w, "EROFS", system=file_system([], 50 * MIB))


STORIES: dict[str, tuple[Tell, str, str]] = {
    "a full disk": (failure, "disk_full", "certain"),
    "a disk without inodes": (
        lambda w: failure(w, system=file_system(["inodes"], MIB, 0), call="mkdir"),
        *("disk_full", "certain"),
    ),
    "a deleted file on a full disk": (open_file, "deleted_but_open", "certain"),
    "a disk that became read-only": (read_only, "read_only", "certain"),
    "a file that must not change": (immutable, "immutable_file", "certain"),
    "a volume in use": (lambda w: busy(w, holder()), "mount_busy", "certain"),
    "a disk that fails": (lambda w: failure(w, "EIO"), "io_error", "certain"),
    "an eviction for what was written": (evicted, "evicted_for_disk", "likely"),
    "a quota that is used up": (lambda w: failure(w, "EDQUOT"), "quota_exceeded", "certain"),
}
