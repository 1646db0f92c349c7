# SPDX-License-Identifier: Apache-2.0
"""Incidents in real pods that affect a whole machine: containerd runs in a guest.

`small_machine` boots one and returns the verdicts of `ktrace why` in it. The guest runs this module
as a program.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from deploy.debian import Say
from tests.lab.staging import CALL_SECONDS, telling, told_by
from tests.support.containerd import Containerd
from tests.support.incidents import SMALL_MACHINE, mishap, run


def small_machine(say: Say) -> Mapping[str, list[dict[str, Any]]]:
    """The verdicts by the name of their incident. LabError if the machine was lost or an incident
    could not be staged."""
    return told_by(__name__, say).verdicts


def main(port: str) -> int:
    """The guest's main program."""
    with (
        telling(port, [one.name for one in SMALL_MACHINE]) as stage,
        Containerd(extra_files={"/mishap": mishap()}, timeout=CALL_SECONDS) as containerd,
    ):
        for one in SMALL_MACHINE:
            stage.run(one.name, partial(run, one, containerd), partial(containerd.log_tail, 3))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
