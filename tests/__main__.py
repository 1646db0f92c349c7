# SPDX-License-Identifier: Apache-2.0
"""`make test`, `python -m tests`: every test there is.

The lab's guests take all the time that a processor has, and the other tests mostly wait: so the lab
runs beside them, with the lowest priority, and what it has to say is printed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile

# A guest alone at the end would leave the other processors with nothing to do.
ALONE = "tests/lab/test_pods.py"
LAB = ("tests/lab", "--ignore", ALONE)
OTHERS = ("tests/unit", "tests/kernel", "tests/pods", ALONE)
PYTEST = (sys.executable, "-m", "pytest")


def main() -> int:
    with tempfile.TemporaryFile() as told:
        lab = subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", "nice", "-n", "19", *PYTEST, *LAB, "-v"],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        try:
            others = subprocess.run([*PYTEST, *OTHERS], check=False).returncode
            print("waiting for the lab's guests", flush=True)
            lab.wait()
        finally:
            if lab.poll() is None:
                lab.send_signal(signal.SIGINT)  # pytest clears up then
                lab.wait()
            told.seek(0)
            shutil.copyfileobj(told, sys.stdout.buffer)
            sys.stdout.flush()
    return others or lab.returncode


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    raise SystemExit(main())
