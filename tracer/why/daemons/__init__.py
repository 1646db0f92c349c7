# SPDX-License-Identifier: Apache-2.0
"""Programs that kill others before the kernel's OOM killer has to.

Each `*.toml` here is about one of them. `executables` are names of its file, `scripts` those of a
script that an interpreter runs, and `units` the systemd units in which it runs. `says` is when it
kills, and `do` where it says so itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tracer.model.event import Process
from tracer.why.tables import tables

# An interpreter's own options stand before the script.
_SCRIPT_AMONG = 4


@dataclass(frozen=True, slots=True)
class OomDaemon:
    name: str
    says: str
    do: str
    executables: Sequence[str] = ()
    scripts: Sequence[str] = ()
    units: Sequence[str] = ()

    def is_run_by(self, process: Process) -> bool:
        argv = (process.argv or [])[1 : 1 + _SCRIPT_AMONG]
        unit = _last(process.place.path or "") if process.place else ""
        return (
            _last(process.exe or "") in self.executables
            or any(_last(word) in self.scripts for word in argv)
            or unit in self.units
        )


def oom_daemon(process: Process) -> OomDaemon | None:
    """The one that the process is. By its names, which say what it is and prove nothing."""
    return next((daemon for daemon in daemons() if daemon.is_run_by(process)), None)


@cache
def daemons() -> tuple[OomDaemon, ...]:
    """Raises for unknown keys."""
    return tuple(OomDaemon(**table) for table in tables(__file__))


def _last(path: str) -> str:
    return path.rpartition("/")[2]
