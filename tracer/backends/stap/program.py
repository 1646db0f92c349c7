# SPDX-License-Identifier: Apache-2.0
"""A script's module in the kernel: loading it with staprun, orders and output, unloading."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from tracer.backends.stap.modules import is_signed, last_words
from tracer.model.errors import KtraceError

READ_BYTES = 1 << 20
# Size of staprun's kernel buffer, in megabytes (staprun -b).
BUFFER_MEGABYTES = "16"
END_SECONDS = 30.0
KEPT_LINES = 40
MODULES = Path("/proc/modules")
PROC = Path("/proc/systemtap")

# The module loader's message, and the remedy. The kernel's own words differ by release; the texts
# of errno (init_module(2)) do not.
_REASONS = (
    ("Invalid module format", "it was made for another kernel: ktrace stap build makes another"),
    ("Key was rejected", "this kernel wants signed modules: sign it with an enrolled key"),
    ("Required key not available", "this kernel wants signed modules: sign it, see docs/stap.md"),
    ("Operation not permitted", "loading modules needs root and a kernel that is not locked down"),
)


class Program:
    """A running staprun; `stdout` and `stderr` are descriptors that never block."""

    def __init__(self, module: Path, settings: Mapping[str, int]) -> None:
        numbers = [f"{name}={value}" for name, value in settings.items()]
        renaming = [] if is_signed(module) else ["-R"]
        command = ["staprun", *renaming, "-b", BUFFER_MEGABYTES, str(module), *numbers]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for ktrace, which ends it in order
            )
        except FileNotFoundError:
            raise KtraceError(
                "the SystemTap backend needs the program staprun",
                "install the package systemtap-runtime",
            ) from None
        assert self._process.stdout and self._process.stderr
        self.stdout, self.stderr = self._process.stdout.fileno(), self._process.stderr.fileno()
        for descriptor in (self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
        self.module = name_in_kernel(module, self._process.pid if renaming else None)
        self._said: deque[str] = deque(maxlen=KEPT_LINES)

    @property
    def words(self) -> list[str]:
        return list(self._said)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def hear(self, line: str) -> None:
        """Takes a line that is no record as a message of the tool."""
        self._said.append(line)

    def read(self) -> bytes | None:
        """Its new output: empty if there is none, None when the output is closed."""
        self._listen()
        try:
            return os.read(self.stdout, READ_BYTES) or None
        except BlockingIOError:
            return b""

    def order(self, words: str) -> None:
        """Sends the script an order. If the module is gone, `read` notices its end."""
        with contextlib.suppress(OSError):
            (PROC / self.module / "orders").write_text(f"{words}\n")

    def stop(self) -> None:
        """Asks it to end; first it writes what is still in the kernel."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def failure(self, what: str) -> KtraceError:
        self._listen()
        said = last_words(self._said)
        remedy = next((does for word, does in _REASONS if word in said), None)
        return KtraceError(f"SystemTap {what}: {said}", remedy)

    def close(self, say: Callable[[str], None]) -> None:
        """Ends and unloads it; `say` is called if something is left."""
        if not self.ended:
            self._process.kill()
        self._process.wait()
        self._listen()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()
        if is_left(self.module) and not unload(self.module):
            say(f"ktrace: the kernel module {self.module} is still loaded: rmmod {self.module}")

    def _listen(self) -> None:
        assert self._process.stderr
        if self._process.stderr.closed:
            return
        with contextlib.suppress(BlockingIOError, ValueError, OSError):
            while data := os.read(self.stderr, 65536):
                for line in data.decode("utf-8", "backslashreplace").splitlines():
                    self._said.append(line[:300])


def name_in_kernel(module: Path, pid: int | None) -> str:
    """The name after staprun -R: as long as before, with staprun's process id at the end, so that
    another ktrace can load the same module. A signed module cannot be changed; then there is no
    pid, and it can be loaded only once."""
    if pid is None:
        return module.stem
    end = f"_{pid}"
    return module.stem[: -len(end)] + end


def references() -> dict[str, int]:
    """The number of users of each loaded module; stapio uses the module that it reads from."""
    try:
        lines = [line.split() for line in MODULES.read_text().splitlines()]
    except OSError:
        return {}
    # a kernel that cannot unload modules does not count
    return {name: int(used) for name, _, used, *_ in lines if used.isdigit()}


def is_left(module: str) -> bool:
    """Whether it is loaded without a reader."""
    return references().get(module) == 0


def unload(module: str) -> bool:
    """Unlike rmmod, staprun -d also removes the module's files. It does not touch a module with a
    reader. Returns whether the module is gone."""
    staprun = shutil.which("staprun")
    if staprun:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [staprun, "-d", module], capture_output=True, timeout=END_SECONDS, check=False
            )
    return not is_left(module)
