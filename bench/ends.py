# SPDX-License-Identifier: Apache-2.0
"""How long after a container's end `ktrace why` says why: real pods, a ktrace for each end.

python -m bench.ends
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable

from tests.support.containerd import Containerd, PodHandle
from tests.support.incidents import DD, LIMIT, SLEEP, mishap
from tests.support.ktrace import Ktrace

ROUNDS = 5
MOST_SECONDS = 1.0
# gRPC, by which the pods are made here, does not survive a fork.
OWN_INTERPRETER = ("env",)


def killed(pod: PodHandle) -> None:
    os.kill(pod.run("app", SLEEP).pid, signal.SIGKILL)


def stopped(pod: PodHandle) -> None:
    pod.run("app", SLEEP).stop(1)


ENDS: dict[str, Callable[[PodHandle], object]] = {
    "killed from the host": killed,
    "stopped by the runtime": stopped,
    "out of memory": lambda pod: pod.run("app", DD.split(), memory_limit=LIMIT),
    "crashed": lambda pod: pod.run("app", ["/mishap", "segv"]),
    "exit code 3": lambda pod: pod.run("app", ["sh", "-c", "exit 3"]),
}


def main() -> int:
    slow = False
    with Containerd(extra_files={"/mishap": mishap()}) as containerd:
        for what, end in ENDS.items():
            seconds = [until_told(containerd, end) for _ in range(ROUNDS)]
            most = max(seconds)
            slow |= most > MOST_SECONDS
            print(
                f"{what}: {statistics.median(seconds):.2f} s after the end, at most {most:.2f}"
                f" (limit {MOST_SECONDS:.0f}): {'SLOW' if most > MOST_SECONDS else 'ok'}",
                flush=True,
            )
    return slow


def until_told(containerd: Containerd, end: Callable[[PodHandle], object]) -> float:
    """From the moment of the end, as the kernel dates it, until the verdict can be read."""
    pod = containerd.run_pod("ends-0", namespace="bench")
    reader, writer = os.pipe()
    try:
        words = ("why", pod.uid, "--cri-socket", str(containerd.socket), "--wait")
        with (
            os.fdopen(reader, "rb") as told,
            Ktrace(*words, stdout=writer, inside=OWN_INTERPRETER),
        ):
            os.close(writer)
            end(pod)
            verdict = json.loads(told.readline())
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    finally:
        pod.remove()
    return float(now - verdict["boot_ns"]) / 1e9


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("bench.ends needs root: it loads BPF programs and starts containers")
    sys.exit(main())
