# SPDX-License-Identifier: Apache-2.0
"""The core backend: precompiled CO-RE objects, loaded with libbpf, read through a mapped ring
buffer.

libbpf reads the kernel's types once for each object, and looks for the same structs in them again.
So the programs of all probes are loaded as one object if this kernel accepts them together. If it
refuses one, each probe has its own object, which tells what is refused and tries the alternatives.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tracer.backends import Backend, Cost, Say, none_accepted, privileges
from tracer.backends.lack import Lack
from tracer.backends.libbpf import Libbpf, LibbpfError, LoadedObject
from tracer.backends.objects import CONTEXT, besides
from tracer.backends.ring import CopyingRing, MappedRing, open_ring
from tracer.backends.with_maps import WithMaps
from tracer.kernel.bpf_object import BpfFile, together
from tracer.model.batch import Batch
from tracer.model.errors import CannotOnThisKernel, KtraceError
from tracer.probes import Arming, AttachPoint, Probe

T = TypeVar("T")

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


@dataclass(frozen=True)
class _Part:
    """The programs of one source, in the object that they were loaded with."""

    loaded: LoadedObject
    programs: frozenset[str]

    def recursion_misses(self) -> dict[str, int]:
        return self._own(self.loaded.recursion_misses())

    def run_times(self) -> dict[str, tuple[int, int]]:
        return self._own(self.loaded.run_times())

    def _own(self, values: Mapping[str, T]) -> dict[str, T]:
        return {name: value for name, value in values.items() if name in self.programs}


class CoreBackend(WithMaps):
    name = "core"

    def __init__(self) -> None:
        super().__init__()
        self._library = Libbpf()
        self._objects: list[LoadedObject] = []
        self._parts: dict[str, _Part] = {}
        self._ring: MappedRing | CopyingRing | None = None
        self.walked = False

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        try:
            if not self._attach_together(probes, settings):
                self._attach_each(probes, settings)
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
            for name, part in self._parts.items()
            for program, (nanoseconds, runs) in part.run_times().items()
            if runs
        }
        return Cost(self._ring.waiting if self._ring else None, RING_BYTES, times)

    def detach(self) -> None:
        """Closes the programs; the maps stay because the ring is still mapped."""
        for name, part in self._parts.items():
            self._count_refused(name, part.recursion_misses())
        for loaded in self._objects:
            loaded.detach()
        self._reader.last_call()

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._parts.clear()
        while self._objects:
            self._objects.pop().close()
        self._reader.close()

    def _attach_together(self, probes: list[Probe], settings: dict[str, int]) -> bool:
        """Attaches everything as one object. False if the kernel refuses any of it."""
        self._shipped.open(CONTEXT)  # its events have the first numbers
        found = [(probe, point) for probe in probes if (point := self._first_possible(probe))]
        wanted = {
            probe.object: frozenset((*point.programs, *point.armed)) for probe, point in found
        }
        for name in (CONTEXT, *besides(probes)):
            wanted[name] = frozenset(self._shipped.open(name).programs)
        every = frozenset[str]().union(*wanted.values())
        if len(found) < len(probes) or len(every) < sum(map(len, wanted.values())):
            return False  # no object has two programs of one name
        file = _file_with(every, probes)
        if file is None:
            return False
        loaded = self._open(file, wanted, settings)
        armed = [name for _, point in found for name in point.armed]
        try:
            with self._library.quiet():
                loaded.load(set(every))
                loaded.attach(besides=armed)
                walked = loaded.walk()
        except LibbpfError:
            self._objects.pop().close()
            return False
        self.walked = walked or not besides(probes)
        self._maps = {shared: loaded.map(shared) for shared in SHARED_MAPS}
        for name, programs in wanted.items():
            self._parts[name] = _Part(loaded, programs)
        for probe, point in found:
            self._accompany(probe, point)
        return True

    def _first_possible(self, probe: Probe) -> AttachPoint | None:
        """The first attach point whose kinds of programs this kernel has."""
        sections = self._shipped.open(probe.object).programs
        for point in self._points(probe):
            try:
                for program in (*point.programs, *point.armed):
                    self._library.check_kind(sections.get(program, ""))
            except LibbpfError:
                continue
            return point
        return None

    def _points(self, probe: Probe) -> Iterator[AttachPoint]:
        """The attach points, without optional programs that this kernel cannot have."""
        sections = self._shipped.open(probe.object).programs
        for point in probe.attach_points:
            optional = {name: sections[name] for name in point.optional}
            yield point.without(self._library.lacking(optional))

    def _attach_each(self, probes: list[Probe], settings: dict[str, int]) -> None:
        self._load(CONTEXT, None, settings)
        for probe in probes:
            self._attach_probe(probe, settings)
        others = self._load_besides(probes, settings)
        for loaded in (*others, self._parts[CONTEXT].loaded):
            loaded.attach()
        walked = [loaded.walk() for loaded in others]
        self.walked = all(walked)

    def _attach_probe(self, probe: Probe, settings: dict[str, int]) -> None:
        """Takes the first attach point that this kernel both loads and attaches."""
        refused: list[tuple[AttachPoint, LibbpfError]] = []
        for point in self._points(probe):
            try:
                self._load(probe.object, (*point.programs, *point.armed), settings)
                self._parts[probe.object].loaded.attach(besides=point.armed)
                self._accompany(probe, point)
            except LibbpfError as error:
                self._objects.pop().close()
                refused.append((point, error))
            else:
                return
        tried = [error for _, error in refused if error.errno != errno.ENOTSUP]
        if tried and all(error.forbidden for error in tried):
            raise tried[0]
        raise none_accepted(probe, refused)

    def _accompany(self, probe: Probe, point: AttachPoint) -> None:
        """The probe is attached: its companion begins."""
        loaded = self._parts[probe.object].loaded
        if point.companion:
            companion = point.companion(self._shipped.by_name(), loaded.map)
            if isinstance(companion, Arming):
                companion.arm_with(partial(loaded.arm, point.armed))
            self._reader.accompany(companion)
        self.attached[probe.name] = point.here()
        self._nested[probe.object] = point.nested

    def _load_besides(self, probes: list[Probe], settings: dict[str, int]) -> list[LoadedObject]:
        """Leaves out iterators if the kernel has none (before 5.8)."""
        for name in besides(probes):
            try:
                self._load(name, None, settings)
            except LibbpfError:
                self._objects.pop().close()
                programs = self._shipped.open(name).programs.items()
                rest = [p for p, section in programs if not section.startswith("iter/")]
                self._load(name, rest, settings)
        return [self._parts[name].loaded for name in besides(probes)]

    def _load(self, name: str, programs: Iterable[str] | None, settings: dict[str, int]) -> None:
        shipped = self._shipped.open(name)
        loaded = self._open(shipped, [name], settings)
        for shared in self._maps.values():
            loaded.reuse_map(shared)
        chosen = frozenset(shipped.programs if programs is None else programs)
        self._parts[name] = _Part(loaded, chosen)
        loaded.load(set(chosen))
        if not self._maps:
            self._maps = {shared: loaded.map(shared) for shared in SHARED_MAPS}

    def _open(self, file: BpfFile, names: Iterable[str], settings: dict[str, int]) -> LoadedObject:
        """Opens a file with the programs of these objects, writes their settings, and leaves out
        what only others need."""
        loaded = self._library.open(file.data, " ".join(names))
        self._objects.append(loaded)
        values = {k: v for name in names for k, v in self._shipped.settings(name, settings).items()}
        loaded.set_rodata(
            {
                file.settings[key][0]: value.to_bytes(file.settings[key][1], "little")
                for key, value in values.items()
            }
        )
        loaded.leave_out_maps({table for name in names for table in self._shipped.open(name).maps})
        return loaded


def _file_with(programs: frozenset[str], probes: list[Probe]) -> BpfFile | None:
    """The smallest file that has them all, if there is one."""
    for name in (*(probe.object for probe in probes[:1]), "all"):
        file = together(name)
        if file and programs <= file.programs.keys():
            return file
    return None


def _explain(error: LibbpfError) -> KtraceError:
    if error.forbidden:
        return privileges.refusal(error.message)
    tail = " | ".join(error.log[-3:])
    return CannotOnThisKernel(f"{error}" + (f" (libbpf: {tail})" if tail else ""))
