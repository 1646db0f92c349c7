# SPDX-License-Identifier: Apache-2.0
"""Guests for the core backend. Every guest has what it needs, so all kernel tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploy.debian import Say
from deploy.packages.build import HOME
from tests.lab import kernels
from tests.lab.image import Additions
from tests.lab.kernels import Kernel, Suite
from tests.lab.results import Attached
from tests.support import bundle
from tracer import probes
from tracer.backends.core import CoreBackend
from tracer.model.errors import KtraceError

# What kernels leave out that lie between the oldest and the newest: tests of a path that others of
# their tests take, too. What is new is not left out.
BETWEEN = ("@tests/lab/between.txt",)
SUITES = (
    Suite("bullseye", "5.10"),
    Suite("bookworm", "6.1", brief=BETWEEN),
    Suite("trixie", "6.12", brief=BETWEEN),
    Suite("sid", "7.2", has_security=False),
)
# Tests that do not depend on the kernel run on this machine, not again on an emulated processor.
TESTS = ("tests/kernel", "-m", "not any_kernel")
PROBES = probes.names()

fetched = kernels.fetched


def additions(suite: Suite, kernel: Kernel, scratch: Path, say: Say) -> Additions:
    """The bundle, in guests that are for this backend."""
    return Additions(trees=((HOME, bundle.bundle()),) if suite in SUITES else ())


def attach() -> Iterator[tuple[str, Attached]]:
    """Attaches the probes one after the other."""
    for name in PROBES:
        yield name, _attached(name)


def _attached(name: str) -> Attached:
    """libbpf's messages contain the verifier's log after a refusal."""
    backend = CoreBackend()
    try:
        backend.attach([probes.get(name)], {})
    except KtraceError as error:
        return Attached(None, error.message, "\n".join(backend._library._log))
    point = backend.attached[name].name
    backend.close()
    return Attached(point, None, None)
