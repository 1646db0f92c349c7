# SPDX-License-Identifier: Apache-2.0
"""The core backend: precompiled CO-RE objects, loaded with libbpf, read through a mapped ring
buffer."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from functools import partial

from tracer.backends import Backend, Cost, Say, none_accepted, privileges
from tracer.backends.lack import Lack
from tracer.backends.libbpf import Libbpf, LibbpfError, LoadedObject
from tracer.backends.objects import CONTEXT, besides
from tracer.backends.ring import CopyingRing, MappedRing, open_ring
from tracer.backends.with_maps import WithMaps
from tracer.model.batch import Batch
from tracer.model.errors import CannotOnThisKernel, KtraceError
from tracer.probes import Arming, AttachPoint, Probe

SHARED_MAPS = ("kt_ring", "kt_lost", "kt_cgroups", "kt_processes", "kt_pids")
RING_BYTES = 8 << 20


BTF = "/sys/kernel/btf/vmlinux"
_BTF_MAGIC = (0xEB9F).to_bytes(2, sys.byteorder)


def create(_: Say) -> Backend:
    return CoreBackend()


def lacking(probe: Probe | None) -> list[Lack]:
    """A probe's own needs are not checked but tried: attaching costs little."""
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


class CoreBackend(WithMaps):
    name = "core"

    def __init__(self) -> None:
        super().__init__()
        self._library = Libbpf()
        self._objects: dict[str, LoadedObject] = {}
        self._ring: MappedRing | CopyingRing | None = None
        self.walked = False

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        try:
            self._load(CONTEXT, None, settings)
            for probe in probes:
                self._attach_probe(probe, settings)
            besides = self._load_besides(probes, settings)
            for loaded in (*besides, self._objects[CONTEXT]):
                loaded.attach()
            walked = [loaded.walk() for loaded in besides]
            self.walked = all(walked)
        except LibbpfError as error:
            self.close()
            raise _explain(error) from error
        except BaseException:
            self.close()
            raise
        ring = self._maps["kt_ring"]
        self._ring = open_ring(ring, RING_BYTES)
        self._reader.watch(ring.fd)

    def read(self, timeout: float) -> Batch | None:
        assert self._ring is not None
        return self._reader.read(self._ring.read, timeout)

    def cost(self) -> Cost:
        times = {
            f"{name}/{program}": (nanoseconds / 1e9, runs)
            for name, loaded in self._objects.items()
            for program, (nanoseconds, runs) in loaded.run_times().items()
            if runs
        }
        return Cost(self._ring.waiting if self._ring else None, RING_BYTES, times)

    def detach(self) -> None:
        """Closes the programs; the maps stay because the ring is still mapped."""
        for name, loaded in self._objects.items():
            self._count_refused(name, loaded.recursion_misses())
        for loaded in self._objects.values():
            loaded.detach()
        self._reader.last_call()

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        while self._objects:
            self._objects.popitem()[1].close()
        self._reader.close()

    def _attach_probe(self, probe: Probe, settings: dict[str, int]) -> None:
        """Takes the first attach point that this kernel both loads and attaches."""
        refused: list[tuple[AttachPoint, LibbpfError]] = []
        for point in probe.attach_points:
            try:
                self._load(probe.object, (*point.programs, *point.armed), settings)
                loaded = self._objects[probe.object]
                loaded.attach(besides=point.armed)
                if point.companion:
                    companion = point.companion(self._shipped.by_name(), loaded.map)
                    if isinstance(companion, Arming):
                        companion.arm_with(partial(loaded.arm, point.armed))
                    self._reader.accompany(companion)
            except LibbpfError as error:
                self._objects.pop(probe.object).close()
                refused.append((point, error))
            else:
                self.attached[probe.name] = point.here()
                self._nested[probe.object] = point.nested
                return
        tried = [error for _, error in refused if error.errno != errno.ENOTSUP]
        if tried and all(error.forbidden for error in tried):
            raise tried[0]
        raise none_accepted(probe, refused)

    def _load_besides(self, probes: list[Probe], settings: dict[str, int]) -> list[LoadedObject]:
        """Leaves out iterators if the kernel has none (before 5.8)."""
        for name in besides(probes):
            try:
                self._load(name, None, settings)
            except LibbpfError:
                self._objects.pop(name).close()
                programs = self._shipped.open(name).programs.items()
                rest = [p for p, section in programs if not section.startswith("iter/")]
                self._load(name, rest, settings)
        return [self._objects[name] for name in besides(probes)]

    def _load(self, name: str, programs: Iterable[str] | None, settings: dict[str, int]) -> None:
        shipped = self._shipped.open(name)
        loaded = self._objects[name] = self._library.open(shipped.data, name)
        places = shipped.settings
        loaded.set_rodata(
            {
                places[key][0]: value.to_bytes(places[key][1], "little")
                for key, value in self._shipped.settings(name, settings).items()
            }
        )
        for shared in self._maps.values():
            loaded.reuse_map(shared)
        loaded.load(None if programs is None else set(programs))
        if not self._maps:
            self._maps = {shared: loaded.map(shared) for shared in SHARED_MAPS}


def _explain(error: LibbpfError) -> KtraceError:
    if error.forbidden:
        return privileges.refusal(error.message)
    tail = " | ".join(error.log[-3:])
    return CannotOnThisKernel(f"{error}" + (f" (libbpf: {tail})" if tail else ""))
