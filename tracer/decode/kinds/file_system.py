# SPDX-License-Identifier: Apache-2.0
"""Errors of file systems and of the disks below them."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

# fs/ext4/super.c, __ext4_error() and others
_EXT4 = re.compile(
    r"(?P<fs>EXT[234])-fs (?P<how>error|warning) \(device (?P<device>[^)\n]{1,64})\)"
    r"(?: in (?P<in>\w{1,64}):(?P<n>\d{1,6}))?:? ?(?P<rest>[^\n]{0,400})"
)
_EXT4_STATE = re.compile(
    r"(?P<fs>EXT[234])-fs \((?P<device>[^)\n]{1,64})\): (?P<rest>[^\n]{0,200})"
)
_XFS = re.compile(r"XFS(?: \((?P<device>[^)\n]{1,64})\))?: (?P<rest>[^\n]{0,300})")
_BTRFS = re.compile(
    r"BTRFS(?::)? (?P<how>error|critical|warning|info) \(device (?P<device>[^)\n]{1,64})\)"
    r"[^:\n]{0,40}: (?P<rest>[^\n]{0,300})"
)
_IO = re.compile(
    r"(?P<how>I/O error|critical \w{1,16} error|lost async page write|protection error),?"
    r" dev (?P<device>[\w-]{1,32}),? (?:sector|logical block) (?P<at>\d{1,20})"
    r"(?P<rest>[^\n]{0,120})"
)
_BUFFER = re.compile(
    r"Buffer I/O error on dev(?:ice)? (?P<device>[\w-]{1,32}), logical block (?P<at>\d{1,20})"
    r"(?P<rest>[^\n]{0,80})"
)
# fs/xfs: xfs_do_force_shutdown(), kmem_alloc()
_XFS_SHUTDOWN = re.compile(r"xfs_do_force_shutdown\(|[Ll]og I/O [Ee]rror [Dd]etected")
_XFS_MEMORY = re.compile(
    r"XFS: (?P<comm>[^\n(]{1,64})\((?P<pid>\d{1,10})\) possible memory allocation deadlock"
    r"(?: size (?P<size>\d{1,12}))?"
)
# drivers/nvme/host/pci.c
_NVME = re.compile(
    r"nvme (?P<device>nvme\w{1,16}): (?:I/O (?:tag )?\d{1,10} [^\n]{0,60}?timeout"
    r"(?:, (?P<then>[a-z ]{3,40}))?|(?P<down>controller is down))"
)
_NFS = re.compile(r"nfs: server (?P<server>\S{1,255}) (?P<how>not responding[^\n]{0,40}|OK)")
_READ_ONLY = re.compile(r"[Rr]emounting file ?system read-only|[Ss]hutting down file ?system", re.I)
_INODE = re.compile(r"inode #(?P<inode>\d{1,20})")
_COMM = re.compile(r"\bcomm (?P<comm>[^\n:]{1,64})")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _EXT4.search(text):
        return _ext4(found)
    if found := _EXT4_STATE.search(text):
        return _state(found["fs"].lower(), found["device"], found["rest"])
    if found := _BTRFS.search(text):
        bad = found["how"] in ("error", "critical")
        return _state("btrfs", found["device"], found["rest"], bad)
    if found := _XFS_MEMORY.search(text):
        size = f" of {int(found['size']) >> 10} KiB in one piece" if found["size"] else ""
        return [
            f"xfs: {found['comm']}, pid {found['pid']}, tries again and again to get kernel memory"
            f"{size}, and waits meanwhile",
            "often memory is free but in small pieces; ktrace decode < /proc/buddyinfo shows it",
        ]
    if found := _XFS.search(text):
        if _XFS_SHUTDOWN.search(found["rest"]):
            return [
                f"xfs on {found['device'] or 'a device'} is shut down from now on: every access"
                " fails with EIO until it is mounted anew",
            ]
        return _state("xfs", found["device"] or "a device", found["rest"])
    if found := _BUFFER.search(text):
        return _disk(found, "a block of the disk")
    if found := _IO.search(text):
        return _disk(found, "a sector of the disk")
    if found := _NVME.search(text):
        if found["down"]:
            return [f"the disk {found['device']} does not answer any more: its driver resets it"]
        return [
            f"the disk {found['device']} did not answer in time"
            + (f": {found['then'].strip()}" if found["then"] else ""),
            "who reads or writes there waits meanwhile",
        ]
    if found := _NFS.search(text):
        if found["how"] == "OK":
            return [f"the NFS server {found['server']} answers again"]
        head = f"the NFS server {found['server']} does not answer"
        if "timed out" in found["how"]:
            return [head, "the mount is soft: who reads or writes there gets an error"]
        return [
            head,
            "who reads or writes there waits, and on a hard mount no signal but SIGKILL ends it",
        ]
    return None


def _ext4(found: re.Match[str]) -> Answer:
    rest = found["rest"]
    fs, what = found["fs"].lower(), "an error" if found["how"] == "error" else "a warning"
    lines = [f"{fs} on {found['device']} found {what}: {rest.strip() or 'no more is said'}"]
    comm, inode = _COMM.search(rest), _INODE.search(rest)
    if comm:
        lines.append(f"  while {comm['comm'].strip()} used it")
    if inode:
        lines.append(f"  in inode {inode['inode']}")
    if found["how"] == "error":
        lines.append(
            "the file system is damaged, or its disk failed; by its errors= option it goes on, is"
            " read-only from now on, or the machine panics. Lines of the disk stand before it"
        )
    return lines


def _state(fs: str, device: str, rest: str, bad: bool = False) -> Answer | None:
    if _READ_ONLY.search(rest):
        done = "read-only" if "read-only" in rest.lower() else "shut down"
        return [f"{fs} on {device} is {done} from now on, because of the error before"]
    words = ("error", "corrupt", "damage", "fail", "abort", "out of space", "no space")
    if bad or any(word in rest.lower() for word in words):
        return [f"{fs} on {device} reports: {rest.strip()}"]
    return None


def _disk(found: re.Match[str], what: str) -> Answer:
    verb = "read or written"
    rest = found["rest"].upper()
    if "WRITE" in rest:
        verb = "written"
    elif "READ" in rest:
        verb = "read"
    return [
        f"{what} {found['device']}, number {found['at']}, could not be {verb}",
        "the disk, or the storage behind it, failed; file systems on it may turn read-only",
    ]


KIND = Kind(
    _read,
    marks=("-fs ", "XFS", "BTRFS", " error, dev ", "error on dev", "nfs: server", "nvme "),
    rank=43,
)
