# SPDX-License-Identifier: Apache-2.0
"""Programs as BCC compiles, loads and attaches them: in a process of its own (worker.py).

Compiling takes seconds, most of them for the kernel's headers. So compiled programs are kept, and
reused while the text, the headers and BCC are the same. This works because a compiled program holds
marked constants in place of descriptors and settings (KT_MAP_AT and KT_SETTING_AT in
probes/include/bcc.h). The values are filled in before loading.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.backends import Say
from tracer.backends.bcc.text import MARK, READ_FIRST, READ_LAST, UNREAD
from tracer.kernel.limits import reached
from tracer.model.errors import CannotOnThisKernel

if TYPE_CHECKING:
    from typing_extensions import Self

CACHE = Path("/var/cache/ktrace/bcc")
KEPT = 16
# A hundred times the usual duration on an idle machine.
PATIENCE_SECONDS = 600.0

# Headers that differ for every kernel: its configuration and its full version.
_TELLING = ("autoconf.h", "utsrelease.h", "uapi/linux/version.h")

_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two instructions' room for one constant
_PSEUDO_MAP_FD = 1

# The kernel needs no debug information of ours. BCC runs the optimizer itself; once is enough.
_FLAGS = ("-g0", "-Xclang", "-disable-llvm-passes")


class Refused(CannotOnThisKernel):
    """BCC or the kernel refused; the message ends in their own words."""


@dataclass(frozen=True, slots=True)
class Site:
    """A program and its attach target; `kind` is one of TYPES in worker.py."""

    program: str
    kind: str
    target: str


@dataclass(frozen=True, slots=True)
class Link:
    """An attached program, by descriptors. The kernel removes both when the last one is closed."""

    program: int
    link: int

    def close(self) -> None:
        os.close(self.link)
        os.close(self.program)


@dataclass(frozen=True, slots=True)
class Compiled:
    """Instructions by program. Old kernels need `version` to load a kprobe."""

    programs: dict[str, bytes]
    version: int


class Programs:
    """Runs BCC in a process of its own, inside a `with` block. `descriptors` of maps and `settings`
    are in the order of their numbers in the text. A readable `interrupt` descriptor ends every
    wait."""

    def __init__(
        self, package: Path, descriptors: Sequence[int], settings: Sequence[int], interrupt: int
    ) -> None:
        self._package = package
        self._descriptors = descriptors
        self._settings = settings
        self._interrupt = interrupt
        self._compiled = Compiled({}, 0)

    def __enter__(self) -> Self:
        self._worker = Worker(self._package, self._descriptors, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def compile(self, code: str, headers: Path, say: Say) -> None:
        """Raises `Refused` with the compiler's words."""
        path = CACHE / cache_name(code, os.uname().release, headers, self._package)
        kept = read_kept(path)
        if kept is None:
            say("ktrace: compiling for this kernel with BCC; some seconds, and only once")
            kept = self._worker.compile(code)
            keep(path, kept)
        self._compiled = kept

    def attach(self, sites: Iterable[Site]) -> list[Link]:
        """Attaches all or none. Raises `Refused`."""
        links: list[Link] = []
        try:
            for site in sites:
                links.append(self._attach_one(site))
        except BaseException:
            for link in links:
                link.close()
            raise
        return links

    def _attach_one(self, site: Site) -> Link:
        instructions = self._compiled.programs.get(site.program)
        if instructions is None:
            raise Refused(f"{site.program} is not for kernels without BTF")
        filled = fill_in(instructions, self._descriptors, self._settings)
        return self._worker.attach(site, filled, self._compiled.version)


def fill_in(instructions: bytes, descriptors: Sequence[int], settings: Sequence[int]) -> bytes:
    """Replaces the marked constants with the maps' descriptors and the settings' values."""
    filled = bytearray(instructions)
    at = 0
    while at < len(filled):
        if filled[at] != _LOAD_64:
            at += 8
            continue
        source = filled[at + 1] >> 4
        low, high = (int.from_bytes(filled[at + i : at + i + 4], "little") for i in (4, 12))
        constant = high << 32 | low
        if source == _PSEUDO_MAP_FD:
            constant = descriptors[low]
        elif constant >> 16 == MARK:
            constant = settings[low & 0xFFFF]
        struct.pack_into("<I", filled, at + 4, constant & 0xFFFFFFFF)
        struct.pack_into("<I", filled, at + 12, constant >> 32)
        at += 16
    return bytes(filled)


class Worker:
    """The other process and its output. Waiting for it raises `KeyboardInterrupt` once `interrupt`
    is readable: after a stop, compiling would take too long."""

    def __init__(
        self, package: Path, inherited: Iterable[int], interrupt: int | None = None
    ) -> None:
        self._interrupt = [] if interrupt is None else [interrupt]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._read = 0
        self._ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("worker.py")
        with theirs:
            self._process = subprocess.Popen(
                [interpreter_of(package), "-I", str(script), str(package), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[*inherited, theirs.fileno()],
            )
        self._rest = b""

    def compile(self, code: str) -> Compiled:
        """Compiles a text of text.py."""
        compiled = self._compile(code, READ_FIRST)
        if UNREAD in compiled.programs:
            with memory_file(code) as path:  # BCC does not rewrite what a text includes
                compiled = self._compile(f'#include "{path}"\n', READ_LAST)
        return compiled

    def _compile(self, code: str, macro: str) -> Compiled:
        answer = self._ask("compile", code=code, flags=[*_FLAGS, f"-D{macro}"])
        programs = {name: base64.b64decode(text) for name, text in answer["programs"].items()}
        return Compiled(programs, answer["version"])

    def attach(self, site: Site, instructions: bytes, version: int) -> Link:
        encoded = base64.b64encode(instructions).decode()
        facts = {"name": site.program, "kind": site.kind, "target": site.target}
        self._ask("attach", **facts, instructions=encoded, version=version)
        _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 2)
        return Link(*descriptors)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()
        self._ours.close()

    def _ask(self, what: str, **details: Any) -> dict[str, Any]:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps({"do": what, **details}).encode() + b"\n")
            self._process.stdin.flush()
        line = self._line()
        if not line:
            code = self._process.wait()
            raise Refused(self._in_words(f"BCC ended with {code}"))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            words = self._in_words(answer["error"])
            raise reached(words, answer["errno"]) or Refused(words)
        return answer

    def _line(self) -> bytes:
        """Empty if the process has ended."""
        assert self._process.stdout
        end = time.monotonic() + PATIENCE_SECONDS
        while b"\n" not in self._rest:
            awaited = [self._process.stdout.fileno(), *self._interrupt]
            readable, _, _ = select.select(awaited, [], [], max(0.0, end - time.monotonic()))
            if set(readable) & set(self._interrupt):
                raise KeyboardInterrupt
            if not readable:
                self._process.kill()
                raise Refused(self._in_words(f"BCC did not answer for {PATIENCE_SECONDS:g} s"))
            more = os.read(self._process.stdout.fileno(), 1 << 20)
            if not more:
                return b""
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _in_words(self, error: str) -> str:
        """The error, with BCC's output since the previous one."""
        written = os.pread(self._log.fileno(), 1 << 20, self._read)
        self._read += len(written)
        said = last_words(written.decode(errors="replace"))
        return f"{error}: {said}" if said else error


@contextmanager
def memory_file(text: str) -> Iterator[str]:
    """The path of a file without a directory entry, which vanishes with the process."""
    with os.fdopen(os.memfd_create("ktrace"), "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def last_words(log: str) -> str:
    """One line of a compiler's or the verifier's log: its first errors, or without any, its last
    lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return " | ".join(errors[:3] or lines[-3:])[:1000]


def interpreter_of(package: Path) -> str:
    """The Python for which the distribution ships BCC. BCC is linked with the node's C library;
    ktrace's own Python may use another."""
    version = next((part for part in package.parts if part.startswith("python")), "")
    own = Path("/usr/bin", version)
    return str(own) if own.is_file() else sys.executable


def cache_name(code: str, release: str, headers: Path, package: Path) -> str:
    """Identifies everything that compiled programs depend on: the text, the kernel, BCC."""
    facts = [code.encode(), release.encode(), *(flag.encode() for flag in _FLAGS)]
    files = [headers / "include" / "generated" / name for name in _TELLING]
    for path in (*files, package / "version.py"):
        try:
            facts.append(path.read_bytes())
        except OSError:
            facts.append(b"")
    return hashlib.sha256(b"\0".join(facts)).hexdigest() + ".json"


def read_kept(path: Path) -> Compiled | None:
    """None if it is missing, unreadable or not ktrace's."""
    try:
        if path.stat().st_uid != os.geteuid():
            return None
        told = json.loads(path.read_bytes())
        programs = {name: base64.b64decode(text) for name, text in told["programs"].items()}
        return Compiled(programs, told["version"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def keep(path: Path, compiled: Compiled) -> None:
    """Does nothing if that is not possible."""
    programs = {n: base64.b64encode(p).decode() for n, p in compiled.programs.items()}
    text = json.dumps({"programs": programs, "version": compiled.version})
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
        # also unfinished files of killed processes
        kept = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        for old in kept[:-KEPT]:
            old.unlink()
