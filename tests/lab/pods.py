# SPDX-License-Identifier: Apache-2.0
"""Incidents in real pods that take a whole machine with them: containerd runs in a guest.

`small_machine` boots one, and gives the verdicts that `ktrace why` came to in there. The guest runs
this module as a program, which tells them line by line as tests.lab.guest does of tests.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tests.lab.core import SUITES
from tests.lab.image import Additions, build_disk, build_initramfs
from tests.lab.kernels import LabError, fetched
from tests.lab.machine import Machines
from tests.lab.results import describe_failures
from tests.support.containerd import PACKAGES, Containerd
from tests.support.incidents import MISHAP_IN_GUEST, SMALL_MACHINE, Incident, mishap, run
from tests.support.packages import Say

SUITE = next(suite for suite in SUITES if suite.series == "6.1")
# It gives copies of these files to its pods.
CONTAINERD = Additions(
    packages=tuple(sorted(set(PACKAGES.values()))),
    contents=(("/etc/hosts", b"127.0.0.1 localhost\n"), ("/etc/resolv.conf", b"")),
)
# An emulated machine needs a minute where a machine needs a second.
CALL_SECONDS = 120.0


def small_machine(say: Say) -> Mapping[str, list[dict[str, Any]]]:
    """The verdicts, by the name of their incident. LabError if the machine was lost or an incident
    could not be staged."""
    kernel = fetched(SUITE, say)
    machines = Machines()
    with tempfile.TemporaryDirectory(prefix="ktrace-lab-") as directory:
        scratch = Path(directory)
        say("building the disk of a guest with containerd")
        disk = build_disk(
            (),
            scratch,
            module=__name__,
            additions=CONTAINERD + Additions(contents=((str(MISHAP_IN_GUEST), mishap()),)),
        )
        say(f"staging incidents in a guest with {kernel.release}")
        initramfs = build_initramfs(kernel, scratch)
        try:
            results = machines.boot(SUITE.series, kernel, initramfs, disk, scratch)
        finally:
            machines.close()
    say(f"{results.release}: {results.in_words()}")
    if not results.good:
        raise LabError(describe_failures(results))
    return results.verdicts


def main(port: str) -> int:
    """In the guest."""
    with open(port, "wb") as file:
        tell(file, "kernel", release=platform.release())
        tell(file, "collected", tests=[one.name for one in SMALL_MACHINE])
        with Containerd(extra_files={"/mishap": mishap()}, timeout=CALL_SECONDS) as containerd:
            for one in SMALL_MACHINE:
                stage(one, containerd, file)
            tell(file, "end", code=0)
    return 0


def stage(one: Incident, containerd: Containerd, file: BinaryIO) -> None:
    tell(file, "began", test=one.name)
    started, why = time.monotonic(), ""
    try:
        tell(file, "said", incident=one.name, verdicts=run(one, containerd))
    except Exception:  # what went wrong is told where somebody reads it
        why = f"{traceback.format_exc()}\n{containerd.log_tail(3)}"
    outcome = {"outcome": "failed" if why else "passed", "why": why, "again": ""}
    tell(file, "ended", test=one.name, seconds=time.monotonic() - started, **outcome)


def tell(file: BinaryIO, kind: str, **facts: Any) -> None:
    file.write(json.dumps({"kind": kind, **facts}).encode() + b"\n")
    file.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
