# SPDX-License-Identifier: Apache-2.0
"""From the numbers in an event to processes, pods and containers.

The kernel side describes each cgroup and each process once, before the first event that refers to
it. The resolver keeps those descriptions and adds names when a source knows them. All tables are
bounded in bytes: entries of removed cgroups go first, then the least recently used. The kernel side
does not describe again what was forgotten here, so `unknown` counts events that refer to a
forgotten process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, TypeVar

from tracer.kernel.bpf_object import shipped
from tracer.kernel.cgroupfs import HIERARCHY_SHIFT
from tracer.model.bounded import Table, size_of
from tracer.model.cgroup import CgroupIdentity, parse
from tracer.model.event import Place, Process, text
from tracer.model.names import Container, Names, Pod
from tracer.model.path import path_of

# About enough for as many cgroups as the kernel side remembers (kt_cgroups).
MAX_PLACES = 24 << 20
# For removed cgroups: events that still refer to them come soon, or never.
MAX_DEAD = 4 << 20
# Enough for half as many again as the kernel side remembers (kt_processes), so that it hardly ever
# refers to a forgotten one.
MAX_PROCESSES = 8 << 20
MAX_IMAGES = 3 << 20
MAX_NAMES = 4 << 20  # of pods, and of containers
# Of who is always on: as much of what lives, but less of what is gone.
FRUGAL_DEAD, FRUGAL_PROCESSES, FRUGAL_NAMES = 1 << 20, 4 << 20, 2 << 20
FRUGAL_IMAGES = 3 << 19
# The number of removed cgroups to forget before their processes are forgotten, too.
SWEEP = 256

T = TypeVar("T", Pod, Container)

_NOWHERE = CgroupIdentity()


class Resolver:
    """`on_place` is called for every cgroup that becomes known, `on_end` when it is removed or
    forgotten. A `frugal` one remembers less of what is gone."""

    def __init__(
        self,
        on_place: Callable[[Place], None],
        on_end: Callable[[Place], None] = lambda place: None,
        *,
        frugal: bool = False,
    ) -> None:
        dead = FRUGAL_DEAD if frugal else MAX_DEAD
        processes = FRUGAL_PROCESSES if frugal else MAX_PROCESSES
        names = FRUGAL_NAMES if frugal else MAX_NAMES
        images = FRUGAL_IMAGES if frugal else MAX_IMAGES
        self._on_place = on_place
        self._on_end = on_end
        self._places: Table[int, Place] = Table(MAX_PLACES, _size_of_place)
        self._dead: Table[int, Place] = Table(dead, _size_of_place)
        self._gone = 0  # removed cgroups forgotten since the last sweep
        self._pods: Table[tuple[int, str], Place] = Table(MAX_PLACES // 2, _size_of_place)
        self._processes: Table[int, Process] = Table(processes, attrgetter("size"))
        self._newest_forgotten = 0  # of the processes
        # program and arguments by task and exec, because a later description may lack them
        self._images: Table[tuple[int, int, int], tuple[str | None, list[str] | None]] = Table(
            images, size_of
        )
        self._pod_names: Table[str, Pod] = Table(names, _size_of_pod)
        self._container_names: Table[str, Container] = Table(names, _size_of_container)
        self.names = Names(self._pod_names, self._container_names)
        self._there: set[str | None] | None = None  # uids and ids with a cgroup; None: recount
        self._ancestor = shipped("context").layout("kt_ancestor").struct
        self.unknown = 0
        self.changes = 0  # counts what has become known or has ended
        self._replaced = 0  # processes that were forgotten or described anew

    def process(self, reference: int, pid: int, tid: int) -> Process:
        """The process an event refers to. Only its numbers are known if the description was lost or
        forgotten; `unknown` counts the forgotten ones."""
        process = self._processes.touch(reference)
        if process is None:
            # the kernel side numbers them by time
            self.unknown += 0 < reference <= self._newest_forgotten
            return Process(pid, tid)
        return process

    @property
    def knowledge(self) -> int:
        """While it stays the same, a reference to a described process means the same."""
        return self.changes + self._replaced

    def use(self, references: Iterable[int]) -> None:
        """Refreshes the LRU entries of processes, the last one used last."""
        for reference in references:
            self._processes.touch(reference)

    def place(self, cgroup: int) -> Place | None:
        return self._places.get(cgroup) or self._dead.get(cgroup)

    def pod_place(self, place: Place) -> Place:
        """The place of the whole pod that `place` is in: the pod's own cgroup, or a made-up one if
        that was never described. Without a pod, `place` itself."""
        uid = place.identity.pod_uid
        if uid is None or place.identity.container_id is None:
            return place
        key = place.cgroup >> HIERARCHY_SHIFT, uid
        found = self._pods.touch(key)
        if found is None:
            identity = replace(place.identity, container_id=None, runtime=None)
            found = Place(place.cgroup, None, identity)
            self._name(found)
            self._pods.keep(key, found)
        return found

    def owner(self, uid: str | None, container_id: str | None) -> Place | None:
        """The place of the pod that a path names by its uid, or by the id of a container. None if
        neither is known here."""
        for place in self.places():
            own = place.identity
            if (uid and own.pod_uid == uid) or (container_id and own.container_id == container_id):
                return self.pod_place(place)
        if uid and uid in self.names.pods:
            place = Place(0, None, CgroupIdentity(pod_uid=uid))
            self._name(place)
            return place
        return None

    def place_of(self, reference: int) -> Place | None:
        """The place of a process. Unlike `process`, it does not refresh the LRU entry."""
        process = self._processes.get(reference)
        return process.place if process else None

    def living(self) -> list[int]:
        """The cgroups of which no end was told."""
        return list(self._places.keys())

    def places(self) -> list[Place]:
        return [*self._dead.values(), *self._places.values()]

    def add_cgroup(self, record: Any) -> None:
        """A `struct cgroup_event`. The kernel side describes a known cgroup again if it has
        forgotten it together with its verdict."""
        path = path_of(record.path, record.path_bytes, True) if record.path_whole else None
        self.add_path(record.cgroup, path)
        place = self.place(record.cgroup)
        if place is not None and place.began is None:
            place.began = record.time or None

    def end_cgroup(self, record: Any) -> None:
        """A `struct cgroup_end_event`. The place stays known for a while, because events of its
        former processes may still come."""
        place = self._places.drop(record.cgroup)
        if place is not None:
            place.ended = record.time
            self.changes += 1
            self._on_end(place)
            for cgroup, forgotten in self._dead.keep(record.cgroup, place):
                self._forget(cgroup, forgotten)

    def add_path(self, cgroup: int, path: str | None) -> None:
        place = self._place_of(cgroup)
        if place is None:
            return
        self.changes += 1
        if place.path is None and path is not None:
            place.path, place.identity = path, parse(path)
            place.version += 1
            self._name(place)
            if place.ended is None:
                self._keep(place)  # its size has changed
            self._keep_pod(place)
        self._on_place(place)

    def add_process(self, record: Any) -> None:
        """A `struct process_event`."""
        told_exe, told_argv = self._images.get(image_of(record), (None, None))
        exe = exe_of(record) or told_exe
        argv = _argv(record.argv, record.argv_bytes) or told_argv
        self._images.keep(image_of(record), (exe, argv))
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
            ancestors=record.ancestry[: record.ancestors * self._ancestor.size],
            ancestor=self._ancestor,
            kernel_thread=bool(record.kernel_thread),
            reference=record.process,
        )
        self._replaced += record.process in self._processes
        for reference, _ in self._processes.keep(record.process, process):
            self._newest_forgotten = max(self._newest_forgotten, reference)
            self._replaced += 1

    def learn(self, names: Names) -> list[Place]:
        """Takes new names. Returns the places whose names changed."""
        self._there = None
        self.changes += 1
        for uid, pod in names.pods.items():
            self._pod_names.keep(uid, pod, self._is_there)
        for container_id, container in names.containers.items():
            self._container_names.keep(container_id, container, self._is_there)
        changed = []
        for place in (*self._dead.values(), *self._places.values()):
            if _may_be_told(place, names):
                before = place.version
                self._name(place)
                if place.version != before:
                    changed.append(place)
        for key, place in list(self._pods.items()):
            if _may_be_told(place, names):
                self._name(place)
                if key in self._pods:
                    self._pods.weigh(key)
        for place in changed:
            if place.cgroup in self._places:
                self._drop(self._places.weigh(place.cgroup))
        return changed

    def _is_there(self, id_: str, _: Pod | Container) -> bool:
        """Whether a pod or a container has a cgroup."""
        if self._there is None:
            owners = (_owners(place) for place in self._places.values())
            self._there = {owner for of_place in owners for owner in of_place}
        return id_ in self._there

    def _keep(self, place: Place) -> None:
        self._drop(self._places.keep(place.cgroup, place))

    def _drop(self, over: list[tuple[int, Place]]) -> None:
        """Places for which there is no room."""
        for cgroup, forgotten in over:
            self._on_end(forgotten)
            self._forget(cgroup, forgotten)

    def _forget(self, cgroup: int, place: Place) -> None:
        """Processes refer to the place of their cgroup, so they are forgotten with it."""
        key = cgroup >> HIERARCHY_SHIFT, place.identity.pod_uid or ""
        pod = self._pods.get(key)
        made_up = pod is not None and pod.path is None  # can be made up again
        if made_up or pod is place:
            self._pods.drop(key)
        if place.ended is None:
            return
        self._gone += 1
        if self._gone >= SWEEP:
            self._gone = 0
            over = [
                reference
                for reference, process in self._processes.items()
                if process.place
                and process.place.ended
                and self.place(process.place.cgroup) is None
            ]
            for reference in over:
                self._processes.drop(reference)
            self._replaced += len(over)

    def _keep_pod(self, place: Place) -> None:
        """A pod's own cgroup is the outermost that is in none of its containers."""
        uid = place.identity.pod_uid
        if uid is None or place.path is None or place.identity.container_id:
            return
        key = place.cgroup >> HIERARCHY_SHIFT, uid
        known = self._pods.get(key)
        if known is None or known.path is None or len(place.path) < len(known.path):
            self._pods.keep(key, place)

    def _place_of(self, cgroup: int) -> Place | None:
        """The place of a cgroup. If its description was lost, the place has no path until the next
        description. None for 0, which is no cgroup."""
        if not cgroup:
            return None
        place = self._places.touch(cgroup) or self._dead.get(cgroup)
        if place is None:
            place = Place(cgroup, None, _NOWHERE)
            self._keep(place)
        return place

    def _name(self, place: Place) -> None:
        """Sets the names. Known names stay even when the source has forgotten a removed pod."""
        identity = place.identity
        if identity.container_id:
            told = self.names.containers.get(identity.container_id)
            known = place.container or Container(identity.container_id, identity.runtime)
            place.rename(place.pod, _completed(told, known))
        # if the path names no pod, the runtime may
        uid = identity.pod_uid or (place.container and place.container.pod_uid)
        if uid:
            told_pod = self.names.pods.get(uid)
            place.rename(_completed(told_pod, place.pod or Pod(uid)), place.container)


def _owners(place: Place) -> tuple[str | None, ...]:
    """The uids and the id under which its names may come."""
    identity = place.identity
    told_uid = place.container.pod_uid if place.container else None
    return identity.pod_uid, identity.container_id, told_uid


def _may_be_told(place: Place, names: Names) -> bool:
    uid, container_id, told_uid = _owners(place)
    return uid in names.pods or container_id in names.containers or told_uid in names.pods


def _size_of_place(place: Place) -> int:
    """With its names, which it keeps when the tables of names have forgotten them."""
    identity, pod, container = place.identity, place.pod, place.container
    names = (_size_of_pod(pod) if pod else 0) + (_size_of_container(container) if container else 0)
    return 700 + size_of(place.path, identity.pod_uid, identity.container_id) + names


def _size_of_pod(pod: Pod) -> int:
    return 100 + size_of(pod.uid, pod.namespace, pod.name, pod.labels)


def _size_of_container(container: Container) -> int:
    return 130 + size_of(container.id, container.name)


def _completed(told: T | None, known: T) -> T:
    """The new names, with None filled in from the known ones. Complete new names are returned as
    they are, so many cgroups can share one object."""
    if told is None:
        return known
    missing = {
        field.name: before
        for field in fields(told)
        if getattr(told, field.name) is None and (before := getattr(known, field.name)) is not None
    }
    return replace(told, **missing) if missing else told


def image_of(record: Any) -> tuple[int, int, int]:
    """A key of a task and its exec: it differs for each program that the task runs."""
    return record.tid, record.thread_start, record.exec_id


def exe_of(record: Any) -> str | None:
    """The path as /proc/PID/exe shows it, with `…` in front if the root end did not fit."""
    if not record.exe_bytes:
        return None
    path = path_of(record.exe, record.exe_bytes, record.exe_whole)
    return path + (" (deleted)" if record.exe_deleted else "")


def _argv(raw: bytes, size: int) -> list[str] | None:
    """None when unknown. Arguments that did not fit are missing; the last one may be cut."""
    if not size:
        return None
    taken = raw[:size]
    return [text(word) for word in taken.removesuffix(b"\0").split(b"\0")]
