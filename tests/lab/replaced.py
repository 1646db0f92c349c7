# SPDX-License-Identifier: Apache-2.0
"""Pods that are replaced in guests with cgroup v2 only, and the pods to which their resets are
attributed.

No kubelet runs there, and crun makes the containers, because an emulator starts it faster than
runc. The guest runs this module as a program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from deploy.debian import Say
from tests.cluster.churn import LIVING, Replacing, Tally, Witness
from tests.lab.image import Additions
from tests.lab.machine import TOTAL_SECONDS
from tests.lab.staging import CALL_SECONDS, CONTAINERD, Stage, telling, told_by
from tests.support.containerd import EXECUTING_PLUGINS, Containerd

RAW = "pods replaced"
CRUN = Additions(packages=("crun",))
GUESTS = 2  # concurrently
# The time limit for one on a busy machine.
SECONDS_A_POD = 20
# Progress is reported after this many.
TOLD_AFTER = 5


def replaced_in_guests(say: Say, pods: int) -> Tally:
    """Replaces this many pods in total. LabError if a machine was lost."""
    shares = [len(range(n, pods, GUESTS)) for n in range(min(GUESTS, pods))]
    with ThreadPoolExecutor(len(shares)) as pool:
        return sum(pool.map(partial(_in_guest, say), shares), Tally())


def _in_guest(say: Say, pods: int) -> Tally:
    seconds = TOTAL_SECONDS + pods * SECONDS_A_POD
    told = told_by(__name__, say, [str(pods)], CONTAINERD + CRUN, seconds)
    return Tally.from_facts(told.verdicts[RAW][0])


def main(port: str, pods: int) -> int:
    """The guest's main program."""
    with telling(port, [RAW]) as stage:
        stage.begin("starting containerd")
        with Containerd(timeout=CALL_SECONDS, plugins=EXECUTING_PLUGINS) as containerd:
            stage.begin("starting the witness")
            with Witness(containerd.socket) as witness:
                replacing = partial(Replacing, containerd, witness, LIVING, "crun")
                act = partial(replaced, stage, witness, replacing, pods)
                stage.run(RAW, act, containerd.log_tail)
    return 0


def replaced(
    stage: Stage, witness: Witness, make: Callable[[], Replacing], pods: int
) -> list[dict[str, Any]]:
    replacing = make()
    for done in range(0, pods, TOLD_AFTER):
        replacing.replace(min(TOLD_AFTER, pods - done))
        stage.begin(f"{RAW}: {witness.tally.in_words()}")
    return [witness.stop().as_facts()]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
