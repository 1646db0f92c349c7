# SPDX-License-Identifier: Apache-2.0
"""How long `kubectl ktrace signals` takes to its first event: in the DaemonSet's pod, and in one
that it makes, with the image on the node. A process in a pod is signalled all the time.

    python -m bench.kubectl
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from deploy.architecture import wanted
from deploy.image import build as image
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.cluster.test_plugin import HOME, manifest
from tests.support import bundle

ROUNDS = 5
LIMITS = {"in a pod that is made": 3.0, "in the DaemonSet's pod": 1.0}


def main() -> None:
    with TemporaryDirectory() as scratch, Bed(print) as bed:
        archive = Path(scratch, "ktrace.oci.tar")
        image.build({wanted(): bundle.bundle()}, archive, lambda words: None)
        bed.import_image(archive)
        bed.kubectl("run", "victim", f"--image={bed.image}", "--", "sleep", "100000")
        bed.kubectl("wait", "--for=condition=Ready", "pod/victim", "--timeout=100s")
        uid = bed.get("pod", "victim")["metadata"]["uid"]
        (victim,) = (p for p in pids(uid) if psutil.Process(p).cmdline() == ["sleep", "100000"])
        bed.kubectl("create", "namespace", HOME)
        with shooting(victim):
            tell(bed, "in a pod that is made")
            bed.kubectl("apply", "--filename=-", input=manifest(bed))
            bed.kubectl("-n", HOME, "rollout", "status", "ds/ktrace", "--timeout=100s")
            tell(bed, "in the DaemonSet's pod")


def tell(bed: Bed, where: str) -> None:
    for name, kubectl in {"1.20": bed.binaries, "1.36": bed.new_kubectl.parent}.items():
        seconds = [first_event(bed, kubectl) for _ in range(ROUNDS)]
        median, most = statistics.median(seconds), LIMITS[where]
        word = "ok" if median <= most else "SLOW"
        every = " ".join(f"{one:.2f}" for one in seconds)
        print(f"{where}, kubectl {name}: {median:.2f} s of {most:.0f}: {word} ({every})")


def first_event(bed: Bed, programs: Path) -> float:
    words = ["signals", "-p", "victim", "--signal", "all", "-o", "json", "--count", "1"]
    environment = {"PATH": str(programs), "HOME": str(bed.root), "KUBECONFIG": str(bed.kubeconfig)}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer.kubectl", *words, f"--ktrace-namespace={HOME}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout
    line = process.stdout.readline()
    took = time.monotonic() - began
    process.communicate()
    if not line:
        raise SystemExit("bench.kubectl: no event came")
    return took


@contextmanager
def shooting(pid: int) -> Iterator[None]:
    ended = threading.Event()

    def shoot() -> None:
        while not ended.wait(0.005):
            os.kill(pid, signal.SIGWINCH)

    thread = threading.Thread(target=shoot)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
