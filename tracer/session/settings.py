# SPDX-License-Identifier: Apache-2.0
"""A selection as the kernel side's settings."""

from __future__ import annotations

from tracer.kernel.bpf_object import shipped
from tracer.model.selection import Selection


def of_selection(selection: Selection) -> dict[str, int]:
    modes = shipped("context").numbers("kt_selection_mode")
    return {"kt_mode": modes[selection.mode.value], "kt_by_pid": int(bool(selection.pids))}
