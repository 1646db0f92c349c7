# SPDX-License-Identifier: Apache-2.0
"""How long the `disk` probe takes to arm the program that sees all system calls, and to disarm it.

python -m bench.disk
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Collection
from time import perf_counter

from tracer.backends.libbpf import Libbpf
from tracer.kernel.bpf_object import shipped

ROUNDS = 21
MOST_MS = 25.0
ARMED = "on_sys_exit"


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.disk needs root: it loads BPF programs")
    loaded = Libbpf().open(shipped("disk").data, "disk")
    loaded.load({ARMED})
    times: dict[str, list[float]] = {"arm": [], "disarm": []}
    steps: tuple[tuple[str, Collection[str]], ...] = (("arm", (ARMED,)), ("disarm", ()))
    for _ in range(ROUNDS):
        for what, wanted in steps:
            began = perf_counter()
            if not loaded.arm((ARMED,), wanted):
                raise SystemExit("bench.disk: the kernel refuses")
            times[what].append((perf_counter() - began) * 1000)
    loaded.close()
    for what, every in times.items():
        print(f"{what:8} median {statistics.median(every):6.2f} ms, most {max(every):6.2f} ms")
    slow = statistics.median(times["arm"]) > MOST_MS
    print(f"arming: {MOST_MS:g} ms at most: {'SLOW' if slow else 'ok'}")
    raise SystemExit(slow)


if __name__ == "__main__":
    main()
