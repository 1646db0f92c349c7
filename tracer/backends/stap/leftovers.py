# SPDX-License-Identifier: Apache-2.0
"""Leftover modules: ktrace and the staprun that loaded them were killed. The next ktrace unloads
them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tracer.backends.stap.modules import PLACE_OF_PID
from tracer.backends.stap.program import is_left, references, unload

# See program.name_in_kernel. A module that staprun did not rename has no process id.
_NAME = re.compile(rf"(ktrace_[a-z]+_)(?:{PLACE_OF_PID}|0*_?(\d+))")


def unload_all(say: Callable[[str], None]) -> None:
    for module in references():
        name = _NAME.fullmatch(module)
        if not name or not is_left(module) or _is_being_loaded(module, *name.groups()):
            continue
        if unload(module):
            say(f"ktrace: unloaded {module}, which a ktrace that was killed had left behind")
        else:
            say(f"ktrace: the kernel module {module} is still loaded: rmmod {module}")


def _is_being_loaded(module: str, prefix: str, pid: str | None) -> bool:
    """Whether a staprun is about to read from it. staprun has the module's file among its
    arguments, and after becoming stapio, the module's name in the kernel."""
    file = f"{prefix}{PLACE_OF_PID}"
    return any(
        module in stems or (process == pid and file in stems)
        for process, stems in _stems_of_arguments()
    )


def _stems_of_arguments() -> Iterator[tuple[str, set[str]]]:
    """For every process: its id, and its arguments as file names without directory and
    extension."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # it is gone
            continue
        yield directory.name, {Path(word).stem for word in words}
