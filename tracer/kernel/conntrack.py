# SPDX-License-Identifier: Apache-2.0
"""The counters of connection tracking in a network namespace, read through a process that lives in
it: /proc/PID/net/stat/nf_conntrack (net/netfilter/nf_conntrack_standalone.c)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields, replace

from tracer.kernel.netstat import netns_of

MAXIMUM = "/proc/sys/net/nf_conntrack_max"
MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Tracking:
    """`entries` are those of now; all else counts since the namespace was made. `dropped` are
    packets for which there was no entry (a full table), `early_dropped` entries that had to make
    room, `insert_failed` packets whose entry another packet's had overtaken, `clash_resolved` those
    of them that went on nevertheless, `invalid` packets that fit no connection."""

    entries: int = 0
    dropped: int = 0
    early_dropped: int = 0
    insert_failed: int = 0
    clash_resolved: int = 0
    invalid: int = 0

    def since(self, earlier: Tracking) -> Tracking:
        """The increase, and the entries of now."""
        grown = {
            field.name: max(0, getattr(self, field.name) - getattr(earlier, field.name))
            for field in fields(self)
        }
        return replace(Tracking(**grown), entries=self.entries)

    @property
    def counts(self) -> bool:
        """Whether anything but the entries is not 0."""
        return any(getattr(self, field.name) for field in fields(self)[1:])


# The kernel's titles, in the order of `Tracking`.
_TITLES = ("entries", "drop", "early_drop", "insert_failed", "clashres", "invalid")


def read(pid: int, netns: int) -> Tracking | None:
    """None if the process lives elsewhere by now, or nothing is tracked."""
    try:
        with open(f"/proc/{pid}/net/stat/nf_conntrack", "rb") as file:
            found = parse(file.read(MAX_FILE))
        return found if netns_of(pid) == netns else None
    except OSError:
        return None


def parse(text: bytes) -> Tracking | None:
    """A line of titles, then one of hexadecimal numbers for each CPU. All have the same entries."""
    titles, *rows = (line.split() for line in text.decode("ascii", "replace").splitlines())
    sums = dict.fromkeys(_TITLES, 0)
    with suppress(ValueError):
        for row in rows:
            for title, value in zip(titles, row, strict=False):
                if title == "entries":
                    sums[title] = int(value, 16)
                elif title in sums:
                    sums[title] += int(value, 16)
    return Tracking(*sums.values()) if rows else None


def maximum() -> int:
    """How many entries there may be; 0 if nothing is tracked."""
    try:
        with open(MAXIMUM, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0
