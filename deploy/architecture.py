# SPDX-License-Identifier: Apache-2.0
"""The machine architecture to build for: this machine's, or KTRACE_ARCH."""

from __future__ import annotations

import os
from dataclasses import dataclass

from deploy import BuildError


@dataclass(frozen=True)
class Architecture:
    """Its name in Debian, and its name in the kernel (`uname -m`), RPM and wheels."""

    debian: str
    machine: str

    @property
    def triplet(self) -> str:
        """The name in /usr/lib and for the compiler."""
        return f"{self.machine}-linux-gnu"

    @property
    def is_own(self) -> bool:
        return self.machine == os.uname().machine


ARCHITECTURES = (Architecture("amd64", "x86_64"), Architecture("arm64", "aarch64"))


def wanted() -> Architecture:
    name = os.environ.get("KTRACE_ARCH") or os.uname().machine
    for one in ARCHITECTURES:
        if name in (one.debian, one.machine):
            return one
    known = ", ".join(one.debian for one in ARCHITECTURES)
    raise BuildError(f"nothing is built for {name}: KTRACE_ARCH is one of {known}")
