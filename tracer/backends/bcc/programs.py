# SPDX-License-Identifier: Apache-2.0
"""Programs as BCC compiles, loads and attaches them: in a process of its own (worker.py).

Compiling takes seconds, most of them for the kernel's headers. So what was compiled is kept, and
used as long as the text, the headers and BCC are the same. That is possible because a compiled
program holds no descriptor and no setting: marked constants stand in their places, into which they
are written before loading (KT_MAP_AT and KT_SETTING_AT in probes/include/bcc.h).
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
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracer.backends import Say
from tracer.backends.bcc.text import MARK, READ_FIRST, READ_LAST, UNREAD
from tracer.kernel.limits import reached
from tracer.model.errors import CannotOnThisKernel

if TYPE_CHECKING:
    from typing_extensions import Self

CACHE = Path("/var/cache/ktrace/bcc")
KEPT = 16
# A hundred times what it takes on a machine that has nothing else to do.
PATIENCE_SECONDS = 600.0

# Headers that are new with every kernel: its configuration, and its version to the last digit.
_TELLING = ("autoconf.h", "utsrelease.h", "uapi/linux/version.h")

_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two instructions' room for one constant
_PSEUDO_MAP_FD = 1

# The kernel has no use for types of ours, and BCC optimizes by itself, and once is enough.
_FLAGS = ("-g0", "-Xclang", "-disable-llvm-passes")


class Refused(CannotOnThisKernel):
    """BCC or the kernel said no; the message ends in their own words."""


@dataclass(frozen=True, slots=True)
class Site:
    """A program, and where it is to be attached; `kind` is one of TYPES in worker.py."""

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
    """Instructions by program; `version` is what old kernels want to be told with a kprobe."""

    programs: dict[str, bytes]
    version: int


class Programs:
    """Inside its `with` block there is a process in which BCC works. `descriptors` of maps and
    `settings` are in the order of their numbers in the text. Once the descriptor `interrupt` is
    readable nothing is waited for any more."""

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        """All or none. Raises `Refused`."""
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
    """Descriptors of maps and values of settings in place of their numbers."""
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
    """The other process, and what it says. While that is awaited, `interrupt` becoming readable
    raises `KeyboardInterrupt`: compiling takes too long to go on for somebody who has left."""

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
        """Of what text.py has made."""
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
        """An error, and what BCC has written since the one before."""
        written = os.pread(self._log.fileno(), 1 << 20, self._read)
        self._read += len(written)
        said = last_words(written.decode(errors="replace"))
        return f"{error}: {said}" if said else error


@contextmanager
def memory_file(text: str) -> Iterator[str]:
    """A path to a file that no directory has, so that whatever ends us it is gone."""
    with os.fdopen(os.memfd_create("ktrace"), "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def last_words(log: str) -> str:
    """What matters of what a compiler or the verifier wrote, in a line: its first errors, or if it
    names none the last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return " | ".join(errors[:3] or lines[-3:])[:1000]


def interpreter_of(package: Path) -> str:
    """The Python for which the distribution has BCC: the one that ktrace runs in may have another
    C library than the node's, which BCC is linked with."""
    version = next((part for part in package.parts if part.startswith("python")), "")
    own = Path("/usr/bin", version)
    return str(own) if own.is_file() else sys.executable


def cache_name(code: str, release: str, headers: Path, package: Path) -> str:
    """Tells everything that compiled programs depend on: the text, the kernel, BCC."""
    facts = [code.encode(), release.encode(), *(flag.encode() for flag in _FLAGS)]
    files = [headers / "include" / "generated" / name for name in _TELLING]
    for path in (*files, package / "version.py"):
        try:
            facts.append(path.read_bytes())
        except OSError:
            facts.append(b"")
    return hashlib.sha256(b"\0".join(facts)).hexdigest() + ".json"


def read_kept(path: Path) -> Compiled | None:
    """None too where it is not readable, or is none of ours."""
    try:
        if path.stat().st_uid != os.geteuid():
            return None
        told = json.loads(path.read_bytes())
        programs = {name: base64.b64decode(text) for name, text in told["programs"].items()}
        return Compiled(programs, told["version"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def keep(path: Path, compiled: Compiled) -> None:
    """Where that is not possible it is done without."""
    programs = {n: base64.b64encode(p).decode() for n, p in compiled.programs.items()}
    text = json.dumps({"programs": programs, "version": compiled.version})
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
        # also what somebody who was killed had not finished
        kept = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        for old in kept[:-KEPT]:
            old.unlink()
