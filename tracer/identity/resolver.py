# SPDX-License-Identifier: Apache-2.0
"""From the numbers in an event to processes, pods and containers.

The kernel describes each cgroup and each process once, before the first event that refers to it;
the resolver keeps those descriptions and completes them with names when a source tells them.
Everything it keeps is bounded: the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from tracer.bounded import keep, touch
from tracer.event import ANCESTOR, Place, Process, text
from tracer.identity.cgroup import CgroupIdentity, parse
from tracer.identity.model import Container, Names, Pod

MAX_PLACES = 65_536
# Three times what the kernel side remembers (kt_processes), so that it never refers to what is
# forgotten here.
MAX_PROCESSES = 12_288
# Of cgroups that have been removed: what still refers to them comes soon, or never.
MAX_DEAD = 4096
# Those of what is there now stay the youngest.
MAX_NAMES = 16_384
# The hierarchy's number in a kt_cgroup_id.
HIERARCHY_SHIFT = 48

T = TypeVar("T", Pod, Container)

_NOWHERE = CgroupIdentity()


class Resolver:
    """`on_place` is called for every cgroup that becomes known."""

    def __init__(self, on_place: Callable[[Place], None]) -> None:
        self._on_place = on_place
        self._places: dict[int, Place] = {}
        self._dead: dict[int, None] = {}  # of the places, in the order of their ends
        self._pods: dict[tuple[int, str], Place] = {}  # by hierarchy and uid
        self._processes: dict[int, Process] = {}
        # what exec told about a task, for when a later description cannot tell it any more
        self._images: dict[tuple[int, int, int], tuple[str | None, list[str] | None]] = {}
        self.names = Names()

    def process(self, reference: int, pid: int, tid: int) -> Process:
        """The process an event refers to; with only its numbers if the description was lost."""
        return touch(self._processes, reference) or Process(pid, tid)

    def place(self, cgroup: int) -> Place | None:
        return self._places.get(cgroup)

    def pod_place(self, place: Place) -> Place:
        """Of the pod as such, whichever of its containers `place` is in: the pod's own cgroup, or
        if nobody has described that, one that is made up. Where there is no pod, `place` itself."""
        uid = place.identity.pod_uid
        if uid is None or place.identity.container_id is None:
            return place
        key = place.cgroup >> HIERARCHY_SHIFT, uid
        found = touch(self._pods, key)
        if found is None:
            identity = replace(place.identity, container_id=None, runtime=None)
            found = Place(place.cgroup, None, identity)
            self._name(found)
            keep(self._pods, key, found, MAX_PLACES)
        return found

    def place_of(self, reference: int) -> Place | None:
        """Where a process is. Unlike `process` this is no use of it that would keep it longer."""
        process = self._processes.get(reference)
        return process.place if process else None

    def places(self) -> list[Place]:
        return list(self._places.values())

    def add_cgroup(self, record: Any) -> None:
        """A `struct cgroup_event`. One that is known is described again when the kernel side has
        forgotten it, and with it what was decided."""
        path = None
        if record.path_whole:
            path = _joined(record.path, record.path_bytes)
        self.add_path(record.cgroup, path)
        place = self._places.get(record.cgroup)
        if place is not None and place.began is None:
            place.began = record.time or None

    def end_cgroup(self, record: Any) -> None:
        """A `struct cgroup_end_event`. What is known of the cgroup stays for a while: events of
        processes that were in it may still come."""
        place = self._places.get(record.cgroup)
        if place is not None:
            place.ended = record.time
            self._bury(record.cgroup)

    def add_path(self, cgroup: int, path: str | None) -> None:
        place = self._place_of(cgroup)
        if place is None:
            return
        if place.path is None and path is not None:
            place.path, place.identity = path, parse(path)
            place.version += 1
            self._name(place)
            self._keep_pod(place)
        self._on_place(place)

    def add_process(self, record: Any) -> None:
        """A `struct process_event`."""
        told_exe, told_argv = self._images.get(image_of(record), (None, None))
        exe = exe_of(record) or told_exe
        argv = _argv(record.argv, record.argv_bytes) or told_argv
        keep(self._images, image_of(record), (exe, argv), MAX_PROCESSES)
        process = Process(
            pid=record.pid,
            tid=record.tid,
            comm=text(record.comm),
            exe=exe,
            argv=argv,
            uid=record.uid,
            pid_in_pod=record.pid_in_pod or None,
            pid_level=record.pid_level,
            start_boot_ns=record.start,
            place=self._place_of(record.cgroup),
            init_place=self._place_of(record.init_cgroup),
            ancestors=record.ancestry[: record.ancestors * ANCESTOR.size],
            kernel_thread=bool(record.kernel_thread),
        )
        keep(self._processes, record.process, process, MAX_PROCESSES)

    def learn(self, names: Names) -> list[Place]:
        """Takes names that are new. Returns the places whose names changed."""
        for uid, pod in names.pods.items():
            keep(self.names.pods, uid, pod, MAX_NAMES)
        for container_id, container in names.containers.items():
            keep(self.names.containers, container_id, container, MAX_NAMES)
        changed = []
        for place in self._places.values():
            before = place.version
            self._name(place)
            if place.version != before:
                changed.append(place)
        for place in self._pods.values():
            self._name(place)
        return changed

    def _bury(self, cgroup: int) -> None:
        self._dead[cgroup] = None
        if len(self._dead) > MAX_DEAD:
            oldest = next(iter(self._dead))
            del self._dead[oldest]
            place = self._places.pop(oldest, None)
            if place is not None:
                self._forget_pod(place)

    def _forget_pod(self, place: Place) -> None:
        key = place.cgroup >> HIERARCHY_SHIFT, place.identity.pod_uid or ""
        if self._pods.get(key) is place:
            del self._pods[key]

    def _keep_pod(self, place: Place) -> None:
        """A pod's own is the outermost of the cgroups that are in none of its containers."""
        uid = place.identity.pod_uid
        if uid is None or place.path is None or place.identity.container_id:
            return
        key = place.cgroup >> HIERARCHY_SHIFT, uid
        known = self._pods.get(key)
        if known is None or known.path is None or len(place.path) < len(known.path):
            keep(self._pods, key, place, MAX_PLACES)

    def _place_of(self, cgroup: int) -> Place | None:
        """A cgroup whose description was lost has a place without a path, until it is described
        again. None for 0, which is no cgroup."""
        if not cgroup:
            return None
        place = touch(self._places, cgroup)
        if place is None:
            place = Place(cgroup, None, _NOWHERE)
            keep(self._places, cgroup, place, MAX_PLACES)
        return place

    def _name(self, place: Place) -> None:
        """Names once known stay, also when the source has forgotten a pod that is gone."""
        identity = place.identity
        if identity.container_id:
            told = touch(self.names.containers, identity.container_id)
            known = place.container or Container(identity.container_id, identity.runtime)
            place.rename(place.pod, _completed(told, known))
        # where the path tells no pod the runtime may
        uid = identity.pod_uid or (place.container and place.container.pod_uid)
        if uid:
            told_pod = touch(self.names.pods, uid)
            place.rename(_completed(told_pod, place.pod or Pod(uid)), place.container)


def _completed(told: T | None, known: T) -> T:
    """What is told now; where that is None, what was known before."""
    if told is None:
        return known
    missing = {
        field.name: getattr(known, field.name)
        for field in fields(told)
        if getattr(told, field.name) is None
    }
    return replace(told, **missing)


def _joined(raw: bytes, size: int) -> str:
    """`a/b/c` from the names c, b, a."""
    names = raw[:size].split(b"\0")[:-1]
    return "/" + "/".join(text(name) for name in reversed(names))


def image_of(record: Any) -> tuple[int, int, int]:
    """Tells one program that a task runs from the next."""
    return record.tid, record.thread_start, record.exec_id


def exe_of(record: Any) -> str | None:
    """As /proc/PID/exe shows it; with `…` in front where the root end did not fit."""
    if not record.exe_bytes:
        return None
    path = _joined(record.exe, record.exe_bytes)
    return ("" if record.exe_whole else "…") + path + (" (deleted)" if record.exe_deleted else "")


def _argv(raw: bytes, size: int) -> list[str] | None:
    """None when unknown. Arguments that did not fit are missing; the last one may be cut."""
    if not size:
        return None
    taken = raw[:size]
    return [text(word) for word in taken.removesuffix(b"\0").split(b"\0")]
