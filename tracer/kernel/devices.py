# SPDX-License-Identifier: Apache-2.0
"""Numbers of devices as the kernel has them in its structs: 12 bits major, 20 bits minor."""

from __future__ import annotations

import os


def device_number(device: int) -> int:
    """Of what stat() says."""
    return numbered(os.major(device), os.minor(device))


def numbered(major: int, minor: int) -> int:
    return major << 20 | minor


def device_name(device: int) -> str:
    """`259:1`, as in /proc/PID/mountinfo."""
    return f"{device >> 20}:{device & 0xFFFFF}"
