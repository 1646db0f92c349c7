# SPDX-License-Identifier: Apache-2.0
"""The command line with one chosen attach point of a probe, instead of the first that the kernel
accepts.

    python -m tests.support.only PROBE NUMBER ARGUMENT…
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace


def main() -> None:
    from tracer.cli import main as ktrace

    name, number = sys.argv[1:3]
    module = importlib.import_module(f"tracer.probes.{name}")
    point = module.PROBE.attach_points[int(number)]
    vars(module)["PROBE"] = replace(module.PROBE, attach_points=(point,))
    sys.argv[1:3] = []
    ktrace()


if __name__ == "__main__":
    main()
