# SPDX-License-Identifier: Apache-2.0
"""`make test`, `python -m tests`: every test there is.

The lab's guests take all the time that a processor has, as do the unit tests, the first time
Kubernetes has to be compiled and other programs to be fetched, and the other tests mostly wait: so
these run beside them, with the lowest priority. What they have to say is printed at their end, and
the tests of the cluster and of real programs begin when there are such. SIGTERM and Ctrl-C end all
of them, each with the time to clear what it has begun.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from tests.support.leftovers import end_in_order

# A guest alone at the end would leave the other processors with nothing to do.
ALONE = "tests/lab/test_pods.py"
# The guest with a kubelet needs what the build makes.
KUBELET = "tests/lab/test_kubelet.py"
LAB = ("tests/lab", f"--ignore={ALONE}", f"--ignore={KUBELET}")
UNIT = "tests/unit"
HERE = ("tests/browser", "tests/kernel", "tests/pods", "tests/deploy", ALONE)
CLUSTER = "tests/cluster"
SOFTWARE = "tests/software"
# The kernel, the processors, a runtime and a kubelet are others' too, at the same time: what fails
# is tried once more, and named with what it failed for.
PYTEST = (sys.executable, "-m", "pytest", "--durations", "15", "--reruns", "1")
# A shell's job in the background ignores SIGINT, and so would all that it starts.
ENDING_WITH_US = ("env", "--default-signal=INT", "setpriv", "--pdeathsig", "INT")
BUILD = (sys.executable, "-m", "tests.cluster.build")
FETCH = (sys.executable, "-m", "tests.software.build")


def main() -> int:
    end_in_order()
    with (
        beside(*PYTEST, *LAB, "-v") as (lab, told),
        beside(*BUILD) as (build, progress),
        beside(*FETCH) as (fetch, fetched),
    ):
        with beside(*PYTEST, UNIT) as (unit, told_by_unit):
            codes = [alone(*PYTEST, *HERE)]
            follow("the unit tests", unit, told_by_unit)
            codes.append(unit.returncode)
        follow("real programs", fetch, fetched)
        codes.append(alone(*PYTEST, SOFTWARE))
        follow("the cluster's programs", build, progress)
        with beside(*PYTEST, KUBELET, "-v") as (guest, of_guest):
            codes.append(alone(*PYTEST, CLUSTER))
            print("waiting for the lab's guests", flush=True)
            codes += [guest.wait(), lab.wait()]
            show(of_guest)
            show(told)
    return next(filter(None, codes), 0)


def alone(*command: str) -> int:
    """The code with which it has ended. Of a terminal's Ctrl-C it learns here, once."""
    process = subprocess.Popen([*ENDING_WITH_US, *command], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


@contextlib.contextmanager
def beside(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process of the lowest priority, and the file with what it says. It ends with the block."""
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as told:
        process = subprocess.Popen(
            [*ENDING_WITH_US, "nice", "-n", "19", *command],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, told
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # it clears up then
                process.wait()
                show(told)


def follow(what: str, process: subprocess.Popen[bytes], told: IO[bytes]) -> None:
    """Until it has ended, with what it says meanwhile."""
    print(f"waiting for {what}", flush=True)
    while True:
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            show(told)
        else:
            return show(told)


def show(told: IO[bytes]) -> None:
    """What was not shown before."""
    shutil.copyfileobj(told, sys.stdout.buffer)
    sys.stdout.flush()


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    raise SystemExit(main())
