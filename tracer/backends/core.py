# SPDX-License-Identifier: Apache-2.0
"""The core backend: precompiled CO-RE objects, loaded with libbpf, read through a mapped ring
buffer."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import time
from collections import deque
from importlib import resources

from tracer.backends import Backend, Lack
from tracer.backends.batch import Batch, cell, split
from tracer.backends.libbpf import Libbpf, LibbpfError, LoadedObject, Map
from tracer.backends.ring import CopyingRing, MappedRing, open_ring
from tracer.bpf_object import BpfObject
from tracer.errors import CannotOnThisKernel, KtraceError, MissingPrivilege
from tracer.probes import LAST_CALL, AttachPoint, Companion, Probe
from tracer.schema import Schema

CONTEXT = "context"
SHARED_MAPS = ("kt_ring", "kt_lost", "kt_cgroups", "kt_processes", "kt_pids")
RING_BYTES = 8 << 20
# Records come to rest this long before they are fetched, so that a steady stream costs at most a
# hundred wake-ups a second.
GATHER_SECONDS = 0.01


BTF = "/sys/kernel/btf/vmlinux"
_BTF_MAGIC = (0xEB9F).to_bytes(2, sys.byteorder)


def create() -> Backend:
    return CoreBackend()


def lacking(probe: Probe | None) -> list[Lack]:
    """What a probe needs besides is tried for real: attaching costs little."""
    if probe:
        return []
    return [*_lacking_btf(), *_lacking_libbpf()]


def _lacking_btf() -> list[Lack]:
    remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution's is)"
    try:
        with open(BTF, "rb") as file:
            if file.read(2) == _BTF_MAGIC:
                return []
            return [Lack(f"BTF of this kernel ({BTF} holds none)", remedy)]
    except OSError as error:
        return [Lack(f"BTF of this kernel ({BTF}: {error.strerror})", remedy)]


def _lacking_libbpf() -> list[Lack]:
    try:
        Libbpf()
    except CannotOnThisKernel as error:
        assert error.remedy
        return [Lack(error.message, error.remedy)]
    return []


class CoreBackend:
    name = "core"

    def __init__(self) -> None:
        self.schemas: dict[int, Schema] = {}
        self.attached: dict[str, AttachPoint] = {}
        self._library = Libbpf()
        self._kinds: dict[str, int] = {}
        self._files: dict[str, tuple[bytes, BpfObject]] = {}
        self._objects: dict[str, LoadedObject] = {}
        self._maps: dict[str, Map] = {}
        self._ring: MappedRing | CopyingRing | None = None
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._missed: dict[str, int] = {}
        self._events_of: dict[str, str] = {}
        self._companions: list[Companion] = []
        self._next_call = 0.0
        self._waiting: deque[Batch] = deque()

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        try:
            self._load(CONTEXT, None, settings)
            for probe in probes:
                self._attach_probe(probe, settings)
            self._objects[CONTEXT].attach()
        except LibbpfError as error:
            self.close()
            raise _explain(error) from error
        except BaseException:
            self.close()
            raise
        ring = self._maps["kt_ring"]
        self._ring = open_ring(self._library, ring, RING_BYTES)
        self._epoll.register(ring.fd, select.EPOLLIN)

    def select(self, cgroup: int, verdict: int) -> None:
        self._maps["kt_cgroups"].update(cgroup.to_bytes(8, "little"), verdict.to_bytes(4, "little"))

    def trace_pid(self, pid: int) -> None:
        self._maps["kt_pids"].update(pid.to_bytes(4, "little"), b"\1")

    def read(self, timeout: float) -> Batch | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._companions:
            timeout = min(timeout, max(0.0, self._next_call - time.monotonic()))
        batch = self._read_ring(timeout)
        if self._companions:
            batch = self._accompany(batch)
        return batch

    def _read_ring(self, timeout: float) -> Batch | None:
        assert self._ring is not None
        batch = self._ring.read()
        if batch is None:
            for fd, _ in self._epoll.poll(timeout):
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                    break
            else:
                select.select([self._wake], [], [], min(timeout, GATHER_SECONDS))
            batch = self._ring.read()
        return batch

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def lost(self) -> dict[str, int]:
        cpus = self._library.possible_cpus()
        lost = dict(self._missed)
        for name, kind in self._kinds.items():
            raw = self._maps["kt_lost"].lookup(kind.to_bytes(4, "little"), 8 * cpus) or b""
            count = sum(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
            lost[name] = lost.get(name, 0) + count
        return {name: count for name, count in lost.items() if count}

    def detach(self) -> None:
        """Closes the programs; the maps stay because the ring is still mapped."""
        for name, loaded in self._objects.items():
            misses = loaded.recursion_misses()
            if misses and name in self._events_of:
                self._missed[self._events_of[name]] = misses
        for loaded in self._objects.values():
            loaded.detach()
        last = [cell(r) for companion in self._companions for r in companion.records(LAST_CALL)]
        if last:
            self._waiting.append(split(b"".join(last))[0])

    def close(self) -> None:
        while self._companions:
            self._companions.pop().close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        while self._objects:
            self._objects.popitem()[1].close()
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)

    def _attach_probe(self, probe: Probe, settings: dict[str, int]) -> None:
        """Takes the first attach point that this kernel both loads and attaches."""
        refused: list[tuple[AttachPoint, LibbpfError]] = []
        for point in probe.attach_points:
            try:
                self._load(probe.object, point, settings)
                self._objects[probe.object].attach()
                self._start_companion(probe, point)
            except LibbpfError as error:
                self._objects.pop(probe.object).close()
                if error.errno == errno.EPERM and os.geteuid():
                    raise
                refused.append((point, error))
            else:
                self.attached[probe.name] = point
                return
        raise CannotOnThisKernel(
            f"{probe.name}: this kernel accepts none of "
            + ", ".join(f"{point.name} ({error})" for point, error in refused),
            "ktrace doctor tells what each probe needs",
        )

    def _start_companion(self, probe: Probe, point: AttachPoint) -> None:
        if point.companion:
            by_name = {schema.name: schema for schema in self.schemas.values()}
            self._companions.append(point.companion(by_name, self._objects[probe.object].map))

    def _accompany(self, batch: Batch | None) -> Batch | None:
        """Puts what the companions have to say in front of what came out of the ring."""
        now = time.monotonic()
        fresh = frozenset(self.schemas[run.kind].name for run in (batch.runs if batch else ()))
        due = now >= self._next_call
        if not fresh and not due:
            return batch
        cells = [cell(r) for companion in self._companions for r in companion.records(fresh)]
        if due:
            intervals = [c.interval for c in self._companions if c.interval is not None]
            self._next_call = now + min(intervals, default=3600.0)
        if not cells:
            return batch
        if batch:
            self._waiting.append(batch)
        return split(b"".join(cells))[0]

    def _load(self, name: str, point: AttachPoint | None, settings: dict[str, int]) -> None:
        if name not in self._files:
            data = object_file(name)
            self._files[name] = data, BpfObject(data)
        data, described = self._files[name]
        loaded = self._objects[name] = self._library.open(data, name)
        values = dict(settings)
        for event, schema in described.schemas.items():
            if event not in self._kinds:
                self._kinds[event] = len(self._kinds) + 1
                if name != CONTEXT:
                    self._events_of.setdefault(name, event)
            kind = self._kinds[event]
            schema.kind = kind
            self.schemas[kind] = schema
            values[f"kt_kind_{event}"] = kind
        loaded.set_rodata(
            {
                offset: values[key].to_bytes(size, "little")
                for key, (offset, size) in described.settings.items()
                if key in values
            }
        )
        for shared in self._maps.values():
            loaded.reuse_map(shared)
        loaded.load(set(point.programs) if point else None)
        if not self._maps:
            self._maps = {shared: loaded.map(shared) for shared in SHARED_MAPS}


def object_file(name: str) -> bytes:
    try:
        return resources.files("tracer").joinpath("objects", f"{name}.bpf.o").read_bytes()
    except FileNotFoundError as error:
        raise KtraceError(
            f"the BPF object of {name} is not installed",
            "build it: make install in a clone, or install the wheel",
        ) from error


def _explain(error: LibbpfError) -> KtraceError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return MissingPrivilege(
            f"the kernel refused the BPF program: {error}",
            "run as root with CAP_BPF and CAP_PERFMON; kernel lockdown must not be confidentiality",
        )
    tail = " | ".join(error.log[-3:])
    return CannotOnThisKernel(f"{error}" + (f" (libbpf: {tail})" if tail else ""))
