# SPDX-License-Identifier: Apache-2.0
"""The kernel modules that SystemTap compiles from the scripts in stap/: found, or built and kept.

A module is for one kernel release and one version of its script. Its path below a directory of
modules is RELEASE/DIGEST/ktrace_PROBE_0000000.ko. Selection and settings are parameters at load
time, so one module serves every call.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from tracer.backends import toolchain
from tracer.kernel.bpf_object import shipped
from tracer.model.errors import KtraceError

# For modules built elsewhere; the environment variable overrides it.
INSTALLED = Path("/var/lib/ktrace/stap")
INSTALLED_VARIABLE = "KTRACE_STAP_MODULES"
# The search through all of a kernel's headers takes a minute, once for each kernel.
BUILD_SECONDS = 900
WORDS = 8
# A description takes some hundred steps in the script's language. Interrupts wait for a handler to
# end, because a nested one would be skipped. A selection may include the whole machine's signals,
# so a storm must not end the tracing.
OPTIONS = ("-DMAXACTION=20000", "-DINTERRUPTIBLE=0", "-DSTP_NO_OVERLOAD", "-DMAXERRORS=1000000")

# Enums of the kernel side whose enumerators are macros in the scripts, `@KT_TARGET`.
ENUMS = ("kt_limits", "kt_selected", "kt_selection_mode")

# In a module's name, as many digits as the greatest process id (PID_MAX_LIMIT in
# include/linux/threads.h). staprun replaces them with its own id when it loads the module.
PLACE_OF_PID = "0" * 7

# A script for sh with a process group's id: ends the group when nobody holds the other end of its
# input any more. stap itself ends what it has started, and removes its files.
_GUARD = 'read -r _; kill -TERM "-$0"'

_SIGNATURE = b"~Module signature appended~\n"  # include/linux/module_signature.h


@dataclass(frozen=True)
class Script:
    """A probe's script, with the tapset that all scripts share."""

    probe: str

    @property
    def path(self) -> Path:
        return scripts() / f"{self.probe}.stp"

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def module_name(self) -> str:
        return f"ktrace_{self.probe}_{PLACE_OF_PID}"

    @cached_property
    def settings(self) -> frozenset[str]:
        """The names of its module's parameters."""
        return frozenset(re.findall(r"^global (\w+) = -?\d+", self._text, re.MULTILINE))

    @cached_property
    def digest(self) -> str:
        """Of everything that a module depends on, except the kernel."""
        return hashlib.sha256("\0".join([self._text, *OPTIONS]).encode()).hexdigest()[:12]

    def module(self, directory: Path, release: str) -> Path:
        return directory / release / self.digest / f"{self.module_name}.ko"

    @cached_property
    def _text(self) -> str:
        shared = sorted((scripts() / "tapset").iterdir())
        return "\0".join([*(path.read_text() for path in (self.path, *shared)), macros()])


def scripts() -> Path:
    return Path(str(resources.files("tracer").joinpath("stap")))


def macros() -> str:
    """SystemTap cannot read C: the numbers come from the object's BTF."""
    described = shipped("context")
    return "".join(
        f"@define {name} %( {number} %)\n"
        for enum in ENUMS
        for name, number in described.numbers(enum).items()
    )


def cache() -> Path:
    """Where modules built here are kept."""
    if os.geteuid() == 0:
        return Path("/var/cache/ktrace/stap")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ktrace", "stap")


def find(script: Script, release: str) -> Path | None:
    """A module built for exactly this kernel and script."""
    installed = Path(os.environ.get(INSTALLED_VARIABLE) or INSTALLED)
    places = [script.module(directory, release) for directory in (installed, cache())]
    return next((path for path in places if path.exists()), None)


def is_signed(module: Path) -> bool:
    with module.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_SIGNATURE)))
        return file.read() == _SIGNATURE


def build(script: Script, release: str, directory: Path) -> Path:
    """Compiles the module with SystemTap. If that fails, raises with SystemTap's last words."""
    target = script.module(directory, release)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as place:
            _run_stap(script, release, Path(place))
            os.replace(Path(place, target.name), target)
    except OSError as error:
        raise KtraceError(f"building a SystemTap module: {error}") from error
    return target


def _run_stap(script: Script, release: str, place: Path) -> None:
    made = place / "tapset"
    made.mkdir()
    (made / "enums.stpm").write_text(macros())
    shared = ["-I", str(scripts() / "tapset"), "-I", str(made)]
    name = ["-m", script.module_name]
    command = ["stap", "-r", release, "-p4", *name, *OPTIONS, *shared, str(script.path)]
    try:
        code, words = _run(command, place)
    except FileNotFoundError:
        raise KtraceError(
            "building a SystemTap module needs the program stap",
            "install the package systemtap, or build the module elsewhere: ktrace stap build",
        ) from None
    if code or not (place / f"{script.module_name}.ko").exists():
        lacks = toolchain.lacking_headers(release)
        versions = "docs/compatibility.md tells which SystemTap builds modules for which kernel"
        raise KtraceError(
            f"SystemTap cannot build the module of {script.probe} for {release}: {words}",
            f"there are no {lacks[0].what}: {lacks[0].remedy}" if lacks else versions,
        )


def _run(command: Sequence[str], place: Path) -> tuple[int, str]:
    """Exit code and last words. In any case the compiler that stap started is ended, too, even if
    ktrace is killed."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        with _ended_with_us(process):
            try:
                code = process.wait(BUILD_SECONDS)
            except subprocess.TimeoutExpired:
                raise KtraceError(
                    f"SystemTap was still not done with a module after {BUILD_SECONDS} s",
                    "build it elsewhere: ktrace stap build",
                ) from None
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - 8192))
        return code, last_words(output.read().decode("utf-8", "replace").splitlines())


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Afterwards the group of the process has ended."""
    guard: subprocess.Popen[bytes] | None = None
    try:
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        yield
    finally:
        _kill_group(process)
        if guard:
            guard.kill()
            guard.communicate()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def last_words(lines: Iterable[str]) -> str:
    """A tool's last lines, as one; of a long output only the lines that it marks as errors."""
    said = [line.strip() for line in lines if line.strip()]
    if len(said) > WORDS:
        said = [line for line in said if "error" in line.lower()] or said
    return " | ".join(said[-WORDS:]) or "it said nothing"


def compilers_missing() -> list[str]:
    return [program for program in ("gcc", "make") if not shutil.which(program)]
