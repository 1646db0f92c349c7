# SPDX-License-Identifier: Apache-2.0
"""What SystemTap has running in the kernel and beside it."""

from __future__ import annotations

from pathlib import Path

from tests.support.raisers import children_of


def loaded_modules() -> list[str]:
    names = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    return [name for name in names if name.startswith("ktrace_")]


def stapio_of(parent: int) -> list[int]:
    """staprun becomes stapio, which is ktrace's child."""
    return [pid for pid in children_of(parent) if _runs(pid, b"stapio")]


def _runs(pid: int, program: bytes) -> bool:
    """Also by the loader of its own libraries, as in the lab."""
    return program in Path(f"/proc/{pid}/cmdline").read_bytes()
