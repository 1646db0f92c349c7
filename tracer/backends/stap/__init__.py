# SPDX-License-Identifier: Apache-2.0
"""The SystemTap backend, for kernels without enough BPF: one kernel module for each probe.

The scripts are in stap/. tracer.backends.stap.lines parses their output into records with the BPF
objects' layouts, so nothing after this backend sees a difference.
"""

from __future__ import annotations

import platform
import re
import select
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tracer.backends import Backend, Cost, Say, privileges, tell, toolchain
from tracer.backends.lack import Lack
from tracer.backends.objects import CONTEXT, Objects
from tracer.backends.reader import Reader
from tracer.backends.stap import leftovers as stap_leftovers
from tracer.backends.stap.lines import Lines
from tracer.backends.stap.modules import Script, build, cache, compilers_missing, find, is_signed
from tracer.backends.stap.program import END_SECONDS, MODULES, Program
from tracer.model.batch import Batch, cell, split
from tracer.model.errors import KtraceError
from tracer.probes import AttachPoint, Probe

# An emulated machine takes half a minute to load a module.
START_SECONDS = 120.0
# A module takes no orders before its probes are registered, so it is asked until it answers.
ASK_SECONDS = 0.02
CAP_SYS_MODULE = 16

_SKIPPED = re.compile(r"skipped probes: (\d+)")


def create(say: Say) -> Backend:
    return StapBackend(say)


def lacking(probe: Probe | None) -> list[Lack]:
    if probe is None:
        return [*_lacking_staprun(), *_lacking_module_loading()]
    script = Script(probe.name)
    if not script.exists:
        remedy = "the other backends can; docs/compatibility.md says why this one cannot"
        return [Lack(f"a SystemTap script for {probe.name}", remedy)]
    module = find(script, platform.release())
    if module is None:
        return [*_lacking_compiler(), *_lacking_signature(None)]
    return _lacking_signature(module)


def _lacking_staprun() -> list[Lack]:
    if shutil.which("staprun"):
        return []
    remedy = toolchain.install("systemtap-runtime", "systemtap-runtime")
    return [Lack("the program staprun", remedy)]


def _lacking_module_loading() -> list[Lack]:
    if not MODULES.exists():
        remedy = "use a kernel with CONFIG_MODULES=y (every distribution's is)"
        return [Lack("loadable modules, which this kernel was built without", remedy)]
    if _read("/proc/sys/kernel/modules_disabled") == "1":
        remedy = "restart the node without kernel.modules_disabled=1"
        return [Lack("the right to load modules (kernel.modules_disabled is 1)", remedy)]
    if not privileges.has(CAP_SYS_MODULE):
        return [
            Lack("CAP_SYS_MODULE", "run it as root; in a pod: securityContext.privileged: true")
        ]
    return []


def _lacking_compiler() -> list[Lack]:
    lacks = []
    if not shutil.which("stap"):
        lacks.append(Lack("the program stap", toolchain.install("systemtap", "systemtap")))
    if missing := compilers_missing():
        packages = " ".join(missing)
        lacks.append(Lack(" and ".join(missing), toolchain.install(packages, packages)))
    lacks += toolchain.lacking_headers()
    elsewhere = f"; or make modules elsewhere: ktrace stap build --kernel {platform.release()}"
    return [Lack(lack.what, lack.remedy + elsewhere) for lack in lacks]


def _lacking_signature(module: Path | None) -> list[Lack]:
    """Modules built here are not signed; installed ones may be."""
    if not (toolchain.lockdown() or toolchain.modules_must_be_signed()):
        return []
    if module and is_signed(module):
        return []
    return [Lack("a signed module: this kernel loads no other", "docs/stap.md says how to sign it")]


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


class StapBackend:
    name = "stap"
    walked = False

    def __init__(self, say: Say = tell) -> None:
        self._say = say
        self.unseen: dict[str, int] = {}
        self.attached: dict[str, AttachPoint] = {}
        self._shipped = Objects()
        self.schemas = self._shipped.schemas
        self._reader = Reader(self.schemas)
        self._running: list[_Running] = []
        self._ended: list[_Running] = []
        self._records: list[bytes] = []
        self._failure: KtraceError | None = None
        self._detached = False

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        stap_leftovers.unload_all(self._say)
        try:
            modules = [(probe, *_module_of(probe, self._say)) for probe in probes]
            for probe, script, module in modules:
                self._start(probe, script, module, settings)
                # one after the other: several that mount debugfs at once fail
                self._await_ready()
            for running in self._running:
                self._introduce(running)
        except BaseException:
            self.close()
            raise

    def select(self, cgroup: int, verdict: int) -> None:
        self._order(f"cgroup {cgroup} {verdict}")

    def trace_pid(self, pid: int) -> None:
        self._order(f"pid {pid}")

    def read(self, timeout: float) -> Batch | None:
        return self._reader.read(self._take, 0 if self._detached else timeout)

    def wake(self) -> None:
        self._reader.wake()

    def lost(self) -> dict[str, int]:
        lost: Counter[str] = Counter()
        for running in (*self._running, *self._ended):
            lost.update(running.lost(settled=self._detached))
        return {name: count for name, count in lost.items() if count}

    def cost(self) -> Cost:
        return Cost()

    def detach(self) -> None:
        """Waits for the modules to end, and reads their remaining output."""
        self._detached = True
        for running in self._running:
            running.program.stop()
        deadline = time.monotonic() + END_SECONDS
        while self._running and time.monotonic() < deadline:
            self._listen(0.1)
        for running in self._running:
            running.program.close(self._say)
            what = f"was killed as it did not end within {END_SECONDS:g} s, and events"
            self._failure = running.program.failure(
                f"{what} of {running.probe.name} may be missing"
            )
        self._reader.last_call()

    def close(self) -> None:
        for running in (*self._running, *self._ended):
            running.program.close(self._say)
        self._running, self._ended = [], []
        self._reader.close()

    def _start(self, probe: Probe, script: Script, module: Path, settings: dict[str, int]) -> None:
        """A script may write records of its probe's object and of the context object."""
        layouts = [self._shipped.open(name).schemas for name in (CONTEXT, probe.object)]
        names = [name for schemas in layouts for name in schemas]
        schemas = {name: self.schemas[self._shipped.kinds[name]] for name in names}
        numbers = {name: settings[name] for name in settings.keys() & script.settings}
        program = Program(module, numbers)
        self._running.append(_Running(probe, program, Lines(schemas, program.hear)))
        self._reader.watch(program.stdout)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while waiting := [running for running in self._running if not running.lines.ready]:
            if time.monotonic() > deadline:
                raise waiting[0].program.failure(f"did not start within {START_SECONDS:g} s")
            for running in waiting:
                running.program.order("ready")
            self._listen(ASK_SECONDS)
            if self._failure:
                raise self._failure

    def _introduce(self, running: _Running) -> None:
        """Adds the companion, which is the same for every attach point of a probe."""
        probe, lines = running.probe, running.lines
        first = probe.attach_points[0]
        companion = first.companion
        cannot_tell = (*lines.cannot_tell, *first.lacks())
        self.attached[probe.name] = AttachPoint(lines.attached, (), cannot_tell, companion)
        if companion:
            self._reader.accompany(companion(self._shipped.by_name(), _no_maps))

    def _take(self) -> Batch | None:
        if not self._detached:
            self._listen(0)
        if self._failure and not self._records:
            raise self._failure
        cells = [cell(record) for record in self._records]
        self._records.clear()
        return split(b"".join(cells))[0] if cells else None

    def _listen(self, timeout: float) -> None:
        """Takes the modules' output, at most a pipe's content of each, so that a storm cannot keep
        it here."""
        select.select([running.program.stdout for running in self._running], [], [], timeout)
        for running in list(self._running):
            data = running.program.read()
            if data is None:
                self._end(running)
            else:
                self._records += running.lines.feed(data)

    def _end(self, running: _Running) -> None:
        """Its output is closed. An unexpected end is raised only after its last records."""
        self._running.remove(running)
        self._ended.append(running)
        if not running.lines.ready:
            what = "cannot trace"
        elif not self._detached:
            what = "ended while tracing"
        elif not running.lines.complete:
            what = "ended before it had told all events of"
        else:
            return
        self._failure = running.program.failure(f"{what} {running.probe.name}")

    def _order(self, words: str) -> None:
        for running in self._running:
            running.program.order(words)


@dataclass(slots=True)
class _Running:
    probe: Probe
    program: Program
    lines: Lines

    def lost(self, settled: bool) -> dict[str, int]:
        """Skipped handlers are reported at the end and without a kind: they count as the probe's
        own events."""
        lost = self.lines.missing(settled)
        own = next(iter(self.probe.whose))
        skipped = sum(int(n) for line in self.program.words for n in _SKIPPED.findall(line))
        return {**lost, own: lost.get(own, 0) + skipped}


def _module_of(probe: Probe, say: Say) -> tuple[Script, Path]:
    script, release = Script(probe.name), platform.release()
    module = find(script, release)
    if module is None:
        say(f"ktrace: building SystemTap's module of {probe.name}; a minute or two, and only once")
        module = build(script, release, cache())
    return script, module


def _no_maps(name: str) -> NoReturn:
    raise KtraceError(f"a SystemTap script has no map {name}")
