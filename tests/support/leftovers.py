# SPDX-License-Identifier: Apache-2.0
"""The things that a test containerd leaves on the machine, and their removal.

Each instance keeps a journal in /run/ktrace-tests, with a line for each thing, written before the
thing is made. The journal is locked while its owner lives. So the journal of a killed instance is
not locked, and the instance is cleared in the same way as one that ends well. There is only one way
to end, and every test run exercises it. SIGTERM leads there, too, as Ctrl-C does.

Directories that other programs may use too (/var/log/pods, /kubepods in each cgroup hierarchy …)
are removed only if the tests made them, are the last to leave, and the directory is empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

from typing_extensions import Self

from tests.support.wait import WaitTimeout, wait_for
from tracer.outputs.escape import escape

STATE = Path("/run/ktrace-tests")
KUBEPODS = ("kubepods", "kubepods/besteffort", "kubepods/burstable")

# These paths are built into containerd and the CNI library.
SHIM_SOCKETS = Path("/run/containerd/s")
CNI_RESULTS = Path("/var/lib/cni/results")

_LOCK = STATE / "lock"
_SHARED = STATE / "shared-directories"
_RUNTIME_PROGRAMS = ("containerd", "ctr", "runc", "crun", "dockerd", "podman", "conmon")
# Where the files with shims' sockets lie below the directory of a containerd, or of a dockerd.
_TASKS = ("state", "exec/containerd/daemon")


class LeftoverError(Exception):
    """Something of a test containerd could not be removed."""


class HeldError(LeftoverError):
    """The instance is in use; names the holder."""


class Journal:
    """The list of one instance's things on the machine.

    kinds: `directory` (all its files, and what marks its processes and mounts), `bridge`,
    `cgroup` (a pod's), `files` (a directory elsewhere), `link` (a symbolic link elsewhere), `owner`
    (the process that holds it).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Programs that the owner starts do not inherit it, so the lock ends with the owner.
        self._file = path.open("a+", encoding="utf-8")

    @classmethod
    def open_new(cls, name: str, shared_directories: Iterable[Path]) -> Self:
        """Start a journal, after clearing the things of killed instances."""
        with machine_lock():
            clear_stale()
            _note_missing(shared_directories)
            journal = cls(STATE / f"{name}.journal")
            if not journal.claim():
                raise HeldError(f"{journal.path} is held by {_owner(journal.path)}")
            journal.note("owner", os.getpid())
        end_in_order()
        return journal

    def claim(self) -> bool:
        """Lock the journal. False if its owner is alive."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        return True

    def close(self) -> None:
        self._file.close()

    def note(self, kind: str, value: str | int | Path) -> None:
        self._file.write(f"{kind} {value}\n")
        self._file.flush()

    def noted(self, kind: str) -> list[str]:
        self._file.seek(0)
        rows = (line.rstrip("\n").partition(" ") for line in self._file)
        return [value for found, _, value in rows if found == kind]

    def clear(self) -> None:
        """Remove everything noted, and then the journal itself."""
        with machine_lock():
            self._clear()
            _leave_shared_directories()

    def _clear(self) -> None:
        directories = [Path(value) for value in self.noted("directory")]
        cgroups = self.noted("cgroup")
        # containerd first, so that it starts nothing more; its shims last, to reap the containers.
        _kill_runtime(directories, "containerd")
        for cgroup in cgroups:
            kill_cgroup(cgroup)
        _kill_runtime(directories)
        for directory in directories:
            _unmount(directory)
            _remove_shim_sockets(directory)
            _remove_cni_results(directory)
        for bridge in self.noted("bridge"):
            remove_bridge(bridge)
        for cgroup in cgroups:
            remove_cgroup(cgroup)
        for link in self.noted("link"):
            Path(link).unlink(missing_ok=True)
        for directory in [*map(Path, self.noted("files")), *directories]:
            shutil.rmtree(directory, ignore_errors=True)
            if os.path.lexists(directory):
                raise LeftoverError(f"cannot remove {directory}")
        self.path.unlink()
        self.close()


def end_in_order() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: what has begun is cleared. A handler of
    the program's own stays."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the clearing
    raise KeyboardInterrupt


def _owner(path: Path) -> str:
    """Who holds a journal: its pid and command line."""
    found = re.search(r"^owner (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        return "a process that has just begun"
    try:
        words = Path("/proc", found[1], "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except FileNotFoundError:
        return f"pid {found[1]}, which has just ended"
    return f"pid {found[1]} ({escape(shlex.join(os.fsdecode(word) for word in words))})"


def clear_stale() -> None:
    """Clear the instances whose owner is dead. The caller holds the machine's lock."""
    for path in STATE.glob("*.journal"):
        journal = Journal(path)
        if journal.claim():
            journal._clear()
    _leave_shared_directories(stay=True)


@contextlib.contextmanager
def machine_lock(timeout: float = 60.0) -> Iterator[None]:
    """Lets one test run at a time make or remove shared things."""
    file = wait_for("another test run to finish setting up or cleaning", _try_lock, timeout)
    try:
        yield
    finally:
        os.close(file)


def _try_lock() -> int | None:
    STATE.mkdir(mode=0o700, exist_ok=True)
    try:
        file = os.open(_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # the last to leave has just removed the directory
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:  # else the last to leave removed the lock's file
            return file
    except BlockingIOError:
        pass
    os.close(file)
    return None


def _note_missing(directories: Iterable[Path]) -> None:
    """Remember which shared directories the tests are about to create."""
    wanted = {path for directory in directories for path in (directory, *directory.parents)}
    with _SHARED.open("a", encoding="utf-8") as ledger:
        ledger.writelines(f"{path}\n" for path in sorted(wanted) if not path.exists())


def _leave_shared_directories(stay: bool = False) -> None:
    """Once no instance is left, remove the shared directories that the tests made."""
    if any(STATE.glob("*.journal")):
        return
    if _SHARED.exists():
        paths = {Path(line) for line in _SHARED.read_text(encoding="utf-8").splitlines()}
        for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # not empty: in use by others now
                path.rmdir()
        _SHARED.unlink()
    if not stay:
        _LOCK.unlink()
        with contextlib.suppress(OSError):  # the next one has already started
            STATE.rmdir()


# --- processes -----------------------------------------------------------------------------------


def runtime_processes(directory: Path) -> dict[int, str]:
    """The containerd, shims and helpers whose command line names a file below `directory`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:
            continue
        program = Path(argv[0]).name
        named = any(f"{directory}/" in argument for argument in argv[1:])
        if named and program.startswith(_RUNTIME_PROGRAMS):
            found[int(entry.name)] = program
    return found


def _kill_runtime(directories: Iterable[Path], only: str | None = None) -> None:
    def some_live() -> dict[int, str]:
        every = [item for each in directories for item in runtime_processes(each).items()]
        return {pid: program for pid, program in every if only in (None, program)}

    _kill_until_gone(f"{only or 'the container runtime'} to die", some_live)


def kill_cgroup(cgroup: str) -> None:
    """Kill every process in a pod's cgroup, and wait until they are gone."""
    _kill_until_gone(f"the processes in {cgroup} to die", lambda: cgroup_processes(cgroup))


def _kill_until_gone(what: str, live: Callable[[], Iterable[int]]) -> None:
    def killed() -> bool:
        left = list(live())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    try:
        wait_for(what, killed)
    except WaitTimeout as error:
        raise LeftoverError(f"{error}: {sorted(live())}") from None


# --- cgroups -------------------------------------------------------------------------------------


def cgroup_roots(*kinds: str) -> list[Path]:
    """Where each cgroup hierarchy is mounted: version 2, every version 1 controller, or both."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(mount[1]) for mount in mounts if mount[2] in (kinds or ("cgroup", "cgroup2"))]


def cgroup_processes(cgroup: str) -> list[int]:
    """The host's ids of the processes in a cgroup and below it, in any hierarchy."""
    found: set[int] = set()
    for root in cgroup_roots():
        for folder, _, _ in os.walk(root / cgroup.lstrip("/")):
            with contextlib.suppress(OSError):  # removed while we look
                found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return sorted(found)


def remove_cgroup(cgroup: str, leave_unified: bool = False) -> None:
    """Remove a cgroup whose processes are gone, with all below it, from every hierarchy; or from
    all of version 1, if there are some."""
    for root in (leave_unified and cgroup_roots("cgroup")) or cgroup_roots():
        top = root / cgroup.lstrip("/")
        try:
            wait_for(f"{top} to become removable", partial(_remove_tree, top))
        except WaitTimeout as error:
            raise LeftoverError(str(error)) from None


def _remove_tree(top: Path) -> bool:
    """Remove a tree of cgroups, the leaves first. False while the kernel is still busy in it."""
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not top.exists()


# --- mounts, sockets, network --------------------------------------------------------------------


def mounts_below(directory: Path) -> list[str]:
    """The mount points below a directory, the innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    plain = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points]
    return [point for point in reversed(plain) if point.startswith(f"{directory}/")]


def _unmount(directory: Path) -> None:
    for point in mounts_below(directory):
        # Lazily: a dying process may still use a mount.
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True, timeout=60)
    left = mounts_below(directory)
    if left:  # never delete through a mount
        raise LeftoverError(f"cannot unmount {', '.join(left)}")


def _remove_shim_sockets(directory: Path) -> None:
    """Shims listen outside the instance's directory, and note the address inside it."""
    for tasks in _TASKS:
        for note in directory.glob(f"{tasks}/io.containerd.runtime.v2.task/*/*/address"):
            socket = Path(note.read_text().removeprefix("unix://"))
            if socket.parent == SHIM_SOCKETS:
                socket.unlink(missing_ok=True)


def _remove_cni_results(directory: Path) -> None:
    """The CNI library keeps all results in one place; ours name a namespace in our directory."""
    for result in CNI_RESULTS.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another instance's, just removed
            if f"{directory}/" in result.read_text(encoding="utf-8", errors="replace"):
                result.unlink()


def remove_bridge(bridge: str) -> None:
    """Remove a bridge and the host's ends of the pods' links that are plugged into it."""
    device = Path("/sys/class/net", bridge)

    def removed() -> bool:
        ports = [port.name for port in device.glob("brif/*")]
        for name in [*ports, bridge]:
            subprocess.run(
                ["ip", "link", "delete", name], check=False, capture_output=True, timeout=10
            )
        return not device.exists()

    try:
        wait_for(f"the bridge {bridge} to go", removed)
    except WaitTimeout as error:
        raise LeftoverError(str(error)) from None
