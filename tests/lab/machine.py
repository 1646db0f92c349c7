# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel under QEMU, reads the tests' reports, and ends the guest.

The guest writes to one end of a socket pair: when QEMU ends, in whatever way, the other end
notices. The kernel kills QEMU when the thread that started it ends.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.image import PROJECT
from tests.lab.kernels import Kernel, LabError
from tests.lab.results import Results

MEMORY_MB = 1024
BOOTS = 3
# How much slower a guest's clock may be than this machine's.
SLOWER = 5
# The longest time without a reported line: a test's own limit and some more.
SILENCE_SECONDS = 240.0 * SLOWER
TOTAL_SECONDS = 3600.0
END_SECONDS = 240.0

# KVM hangs on some machines. 6.12 panics with la57. QEMU 7.2 breaks guests with two CPUs. The
# emulator executes `rep movsb` byte by byte and wide registers in pieces, and kernels and C
# libraries prefer both where the processor claims to be good at them. It also discards its
# translations whenever a kernel switches the protection against itself on or off.
PROCESSORS = {
    "amd64": ["qemu-system-x86_64", "-cpu", "max,-la57,-erms,-fsrm,-avx,-avx2,-smap,-smep"],
    # pointer authentication with real algorithms is expensive to emulate
    "arm64": ["qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"],
}
PACKAGES = {"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}
# On arm64 the kernel sets large pieces of memory aside for devices (CMA). They are free, and no use
# to most who ask: memory would never be seen without large pieces.
WORDS = {"amd64": "", "arm64": " cma=0"}
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
MACHINE = [
    "-smp",
    "1",
    "-m",
    str(MEMORY_MB),
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
]
# The guest's clock counts instructions, two nanoseconds each. A busy machine slows the guest and
# its clock alike, so no time limit in there expires sooner. Only sleepers are woken by this
# machine's clock. Measurements in a guest use this machine's clock.
CLOCK = ["-accel", "tcg,thread=multi"]
COUNTING = ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on"]
# Switching page tables at each system call, a mitigation, halves an emulator's speed. A busy host
# delivers timer interrupts late, and the guest must not panic because of that.
COMMAND_LINE = "console={} quiet panic=-1 oops=panic random.trust_cpu=on mitigations=off"
COMMAND_LINE += " no_timer_check"
# Features that cost an emulator much and a test nothing: zeroing fresh memory, security modules,
# waiting for a quiet state of every processor, and address randomisation, which makes it translate
# programs anew at each start.
COMMAND_LINE += " init_on_alloc=0 apparmor=0 audit=0 rcupdate.rcu_expedited=1 norandmaps"

# from the descriptor that the results go to
Command = Callable[[int], list[str]]


class Machines:
    """The running machines; after `close` none is started. Safe in several threads."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds or TOTAL_SECONDS
        self._lock = threading.Lock()
        self._closed = False
        self._processes: set[subprocess.Popen[bytes]] = set()

    def boot(
        self, label: str, kernel: Kernel, initramfs: Path, disk: Path, scratch: Path
    ) -> Results:
        """Boots again only if the guest was lost before its tests began."""
        for number in range(1, BOOTS + 1):
            results = Results(label, boots=number)
            self.run(qemu(kernel, initramfs, disk), results, scratch)
            if self._closed or not results.lost or results.began:
                break
        return results

    def run_here(self, label: str, tests: Sequence[str], scratch: Path) -> Results:
        """Runs the same tests on this machine's own kernel."""
        results = Results(label)
        command = [sys.executable, "-m", "tests.lab.guest"]
        self.run(lambda descriptor: [*command, str(descriptor), *tests], results, scratch)
        return results

    def run(self, command: Command, results: Results, scratch: Path) -> None:
        """Fills `results`. Whatever happens, the process has ended afterwards."""
        console = scratch / f"console-{results.label}-{results.boots}"
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        with ours:
            with theirs:
                process = self._start(command, theirs.fileno(), console)
            try:
                _listen(ours, results, started, self._seconds)
                if not results.lost:
                    process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                results.lose(f"it had no more to tell, and did not end for {END_SECONDS:g} s")
            finally:
                process.kill()
                code = process.wait()
                results.seconds = time.monotonic() - started
                with self._lock:
                    self._processes.discard(process)
        results.console = console.read_text(errors="backslashreplace")
        if not results.ended and not results.lost:
            said = results.console.split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), "nothing")
            results.lose(f"its process ended with {code}, its console with {last}")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()

    def _start(self, command: Command, descriptor: int, console: Path) -> subprocess.Popen[bytes]:
        with self._lock, console.open("wb") as output:
            if self._closed:
                raise LabError("the lab is being closed")
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=PROJECT,
                pass_fds=[descriptor],
            )
            self._processes.add(process)
        return process


def qemu(kernel: Kernel, initramfs: Path, disk: Path, counting: bool = True) -> Command:
    processor = PROCESSORS[kernel.architecture]
    if not shutil.which(processor[0]):
        package = PACKAGES[kernel.architecture]
        raise LabError(f"the guests need QEMU: apt-get install {package}")
    words = COMMAND_LINE.format(CONSOLES[kernel.architecture]) + WORDS[kernel.architecture]
    return lambda descriptor: [
        *processor,
        *(COUNTING if counting else CLOCK),
        *MACHINE,
        *("-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", words),
        *("-drive", f"file={disk},format=raw,if=virtio,snapshot=on"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=results,fd={descriptor}"),
        *("-device", "virtserialport,chardev=results,name=ktrace.lab"),
    ]


def _listen(ours: socket.socket, results: Results, started: float, seconds: float) -> None:
    """Listens until the other end is closed or the last line has come."""
    rest = b""
    end = started + seconds
    while not results.ended:
        patience = min(SILENCE_SECONDS, end - time.monotonic())
        try:
            ours.settimeout(max(patience, 0.001))
            data = ours.recv(1 << 16)
        except TimeoutError:
            if patience < SILENCE_SECONDS:
                results.lose(f"its tests took longer than {seconds:g} s")
            else:
                results.lose(f"nothing was heard from it for {SILENCE_SECONDS:g} s")
            return
        except ConnectionResetError:
            return
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            results.take(line)
            if results.release and not results.boot_seconds:
                results.boot_seconds = time.monotonic() - started
