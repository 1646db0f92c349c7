# SPDX-License-Identifier: Apache-2.0
"""The BCC backend, for kernels without BTF. BCC, the BPF Compiler Collection, compiles the same
sources on the node against its kernel's headers (tracer/backends/bcc/text.py)."""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tracer.backends import Backend, Cost, Say, bpf, none_accepted, privileges, tell, toolchain
from tracer.backends.bcc.perf import PerfRing
from tracer.backends.bcc.programs import Link, Programs, Refused, Site
from tracer.backends.bcc.text import SLOT_BYTES, SLOTS, make_text
from tracer.backends.lack import Lack
from tracer.backends.objects import CONTEXT, Objects, besides
from tracer.backends.ring import CopyingRing, MappedRing, open_ring
from tracer.backends.with_maps import WithMaps
from tracer.kernel.btf import MapShape
from tracer.kernel.limits import reached
from tracer.model.batch import Batch
from tracer.model.errors import CannotOnThisKernel, KtraceError
from tracer.probes import AttachPoint, Probe

# Where distributions install BCC's Python package. PyPI's package of that name is something else.
PACKAGES = (
    "/usr/lib/python3/dist-packages/bcc",
    "/usr/lib/python3*/site-packages/bcc",
    "/usr/lib64/python3*/site-packages/bcc",
)
KPROBES = Path("/sys/bus/event_source/devices/kprobe")

# Section prefix → BCC's program kind. tp_btf needs the kernel's BTF; a raw tracepoint has the same
# arguments. Trampolines (fentry, fexit) need BTF too, and have no replacement.
KINDS = {
    "tp_btf": "raw_tracepoint",
    "tp": "tracepoint",
    "kprobe": "kprobe",
    "kretprobe": "kretprobe",
}
# enum bpf_map_type, include/uapi/linux/bpf.h
_PERF_EVENT_ARRAY, _PERCPU_ARRAY = 4, 6


def create(say: Say) -> Backend:
    return BccBackend(say=say)


def lacking(probe: Probe | None) -> list[Lack]:
    if probe:
        return _lacking_kprobes(probe)
    lacks = toolchain.lacking_headers()
    if not find_package():
        remedy = toolchain.install("python3-bpfcc", "python3-bcc")
        lacks.insert(0, Lack("BCC, the BPF Compiler Collection (which PyPI's bcc is not)", remedy))
    if toolchain.lockdown() == "confidentiality":
        what = "the right to read kernel memory: lockdown is confidentiality"
        lacks.append(Lack(what, "boot with lockdown=integrity or none, see kernel_lockdown(7)"))
    return lacks


def find_package() -> Path | None:
    """The directory of BCC's Python package, whichever Python runs ktrace."""
    for pattern in PACKAGES:
        for directory in sorted(Path("/").glob(pattern[1:])):
            if (directory / "libbcc.py").is_file():
                return directory
    return None


def _lacking_kprobes(probe: Probe) -> list[Lack]:
    sections = Objects().open(probe.object).programs
    if any(_is_possible(point, sections) for point in probe.attach_points):
        return []
    return [Lack(f"kprobes of this kernel, for {probe.name}", "use one with CONFIG_KPROBES=y")]


def _is_possible(point: AttachPoint, sections: Mapping[str, str]) -> bool:
    if point.armed:
        return False
    kinds = {sections[program].partition("/")[0] for program in point.programs}
    return kinds <= KINDS.keys() and (KPROBES.exists() or not kinds & {"kprobe", "kretprobe"})


class BccBackend(WithMaps):
    """`ring` says whether to use a ring buffer; None uses one if the kernel has it."""

    name = "bcc"
    walked = False

    def __init__(self, ring: bool | None = None, say: Say = tell) -> None:
        super().__init__()
        self._wants_ring = ring
        self._say = say
        self._ring: MappedRing | CopyingRing | PerfRing | None = None
        self._links: dict[str, list[Link]] = {}  # by object
        self._programs: dict[str, Sequence[str]] = {}  # by object, as its links

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        try:
            self._attach(probes, settings)
        except OSError as error:
            self.close()
            raise _explain(error) from error
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> Batch | None:
        assert self._ring is not None
        if isinstance(self._ring, PerfRing):
            timeout = min(timeout, self._ring.patience)
        return self._reader.read(self._ring.read, timeout)

    def cost(self) -> Cost:
        return Cost()

    def detach(self) -> None:
        for name, links in self._links.items():
            misses = [bpf.recursion_misses(link.program) for link in links]
            self._count_refused(name, dict(zip(self._programs[name], misses, strict=True)))
        self._close_links()
        if isinstance(self._ring, PerfRing):
            self._ring.settle()
        self._reader.last_call()

    def close(self) -> None:
        self._close_links()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        while self._maps:
            self._maps.popitem()[1].close()
        self._reader.close()

    def _attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        package, headers = find_package(), toolchain.headers().directory
        assert package and headers, "choose() looks for them first"
        names = objects_of(probes)
        _lift_memory_limit()  # before the first map, which may exceed it
        if self._wants_ring is None:
            self._wants_ring = _has_ring_buffers(self._shipped)
        values = values_of(self._shipped, names, settings)
        for name, shape in shapes_of(self._shipped, names, self._wants_ring).items():
            self._maps[name] = bpf.create_map(name, shape)
        self._open_ring()  # before anything is written to it
        descriptors = [made.fd for made in self._maps.values()]
        numbers = [int.from_bytes(value, "little") for value in values.values()]
        with Programs(package, descriptors, numbers, self._reader.woken) as programs:
            # meanwhile the worker imports BCC
            code = text_of(self._shipped, names, headers, self._wants_ring)
            programs.compile(code, headers, self._say)
            for probe in probes:
                self._attach_probe(probe, programs)
            for name in (*besides(probes), CONTEXT):
                found = self._shipped.open(name).programs
                self._programs[name] = _attachable(found)
                self._links[name] = programs.attach(_sites(_attachable(found), found))

    def _attach_probe(self, probe: Probe, programs: Programs) -> None:
        """Takes the first attach point that this kernel both loads and attaches."""
        sections = self._shipped.open(probe.object).programs
        refused: list[tuple[AttachPoint, Exception]] = []
        for point in probe.attach_points:
            if not _is_possible(point, sections):
                continue
            try:
                self._links[probe.object] = programs.attach(_sites(point.programs, sections))
            except Refused as error:
                refused.append((point, error))
                continue
            if point.companion:
                map_of = self._maps.__getitem__
                self._reader.accompany(point.companion(self._shipped.by_name(), map_of))
            self._programs[probe.object] = point.programs
            self._nested[probe.object] = point.nested
            name = point.name.replace("tp_btf", "raw_tp")
            self.attached[probe.name] = replace(point.here(), name=name)
            return
        raise none_accepted(probe, refused)

    def _open_ring(self) -> None:
        made = self._maps["kt_ring"]
        if self._wants_ring:
            self._ring = open_ring(made, made.entries)
            self._reader.watch(made.fd)
            return
        self._ring = PerfRing(made, self.schemas)
        for fd in self._ring.descriptors:
            self._reader.watch(fd)

    def _close_links(self) -> None:
        while self._links:
            for link in self._links.popitem()[1]:
                link.close()


def objects_of(probes: Iterable[Probe]) -> list[str]:
    """In a fixed order, whatever the probes' order, so that a kept compilation is found."""
    wanted = list(probes)
    return [CONTEXT, *sorted({probe.object for probe in wanted}.union(besides(wanted)))]


def text_of(shipped: Objects, names: Sequence[str], headers: Path, ring: bool) -> str:
    """The text for BCC: the same for every session with these objects."""
    programs = [program for name in names for program in shipped.open(name).programs]
    sizes = {key: len(value) for key, value in values_of(shipped, names, {}).items()}
    return make_text(names, programs, shapes_of(shipped, names, ring), sizes, headers, ring=ring)


def shapes_of(shipped: Objects, names: Iterable[str], ring: bool) -> dict[str, MapShape]:
    """The maps of all objects, each once, with their shapes from the shipped objects."""
    shapes: dict[str, MapShape] = {}
    for name in names:
        shapes |= shipped.open(name).maps
    if not ring:
        shapes["kt_ring"] = MapShape(_PERF_EVENT_ARRAY, 4, 4, max(bpf.possible_cpus()) + 1)
        shapes["kt_slots"] = MapShape(_PERCPU_ARRAY, 4, SLOT_BYTES, SLOTS)
        shapes["kt_slots_used"] = MapShape(_PERCPU_ARRAY, 4, 4, 1)
    return shapes


def values_of(
    shipped: Objects, names: Iterable[str], settings: Mapping[str, int]
) -> dict[str, bytes]:
    """All numeric settings of all objects, also those that this session does not set."""
    values: dict[str, bytes] = {}
    for name in names:
        defaults = shipped.open(name).defaults
        own = {k: v for k, v in defaults.items() if k.startswith("kt_") and len(v) <= 8}
        for key, value in shipped.settings(name, settings).items():
            if key in own:
                own[key] = value.to_bytes(len(own[key]), "little")
        values |= own
    return values


def _explain(error: OSError) -> KtraceError:
    problem = f"bcc: {error.strerror or error}"
    if error.errno == errno.EPERM:
        return privileges.refusal(problem)
    return reached(problem, error.errno) or CannotOnThisKernel(problem)


def _has_ring_buffers(shipped: Objects) -> bool:
    """Tries to make a small one. EINVAL means that the kernel does not know the map type."""
    shape = replace(shipped.open(CONTEXT).maps["kt_ring"], entries=mmap.PAGESIZE)
    try:
        bpf.create_map("kt_ring", shape).close()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _attachable(sections: Mapping[str, str]) -> tuple[str, ...]:
    """Iterators need the kernel's BTF."""
    return tuple(name for name, section in sections.items() if section.split("/")[0] in KINDS)


def _sites(names: tuple[str, ...], sections: Mapping[str, str]) -> list[Site]:
    found = [(name, *sections[name].split("/", 1)) for name in names]
    return [Site(name, KINDS[section], target) for name, section, target in found]


def _lift_memory_limit() -> None:
    """Before 5.11 maps count as locked memory."""
    with suppress(ValueError, OSError):
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
