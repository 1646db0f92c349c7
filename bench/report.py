# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.report`: what a page of 10 000 and of 1 000 000 events takes, made and shown.

The pages are made by the command, from its start. If Chromium is here, they are opened in it: the
first paint, and the frames while the timeline is moved. Bounds are of processor time, which is that
of the clock on a machine with nothing else to do: the clock's is shown besides.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.why import write
from tests.support.browser import Browser, browser

# Events, seconds, megabytes of the page.
BOUNDS = ((10_000, 1.0, 1.5), (1_000_000, 10.0, 10.0))
MOST_BYTES, PAINT_MS, FRAMES = 200 << 20, 500, 30

TURNS = 120
MOVE = """
return new Promise((done) => {
  const timeline = document.getElementById("timeline"), times = [];
  const step = (now) => {
    times.push(now);
    const key = times.length % 40 < 20 ? "ArrowRight" : "ArrowLeft";
    timeline.dispatchEvent(new KeyboardEvent("keydown", {key}));
    if (times.length <= arguments[0]) requestAnimationFrame(step);
    else done(1000 * arguments[0] / (now - times[0]));
  };
  requestAnimationFrame(step);
});
"""
PAINTED = """
const found = performance.getEntriesByName("first-contentful-paint")[0];
return found ? found.startTime : null;
"""


def main() -> int:
    fine = True
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as scratch:
        pages = []
        for events, seconds, megabytes in BOUNDS:
            recording, page = Path(scratch, f"{events}.ktrace"), Path(scratch, f"{events}.html")
            write(recording, events)
            took, clock, peak = made(recording, page)
            size = page.stat().st_size / 1e6
            print(f"{events:>9,} events: made in {took:.1f} s (at most {seconds:.0f};", end=" ")
            print(f"{clock:.1f} s by the clock), {peak / (1 << 20):.0f} MiB resident,")
            print(f"          {size:.2f} MB (at most {megabytes})")
            fine &= took <= seconds and size <= megabytes and peak <= MOST_BYTES
            pages.append(page)
        if shutil.which("chromium") and shutil.which("chromedriver"):
            with browser() as shown:
                shown.resize(1280, 1000)
                fine &= all(moved(shown, page) for page in pages)
    return not fine


def made(recording: Path, page: Path) -> tuple[float, float, int]:
    """Returns the processor's seconds, the clock's, and the most memory of any page so far."""
    command = [sys.executable, "-m", "tracer", "report", str(recording), "-o", str(page)]
    begin, before = time.monotonic(), processor()
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return processor() - before, time.monotonic() - begin, peak


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def moved(shown: Browser, page: Path) -> bool:
    shown.devtools("Performance.enable", timeDomain="threadTicks")
    shown.open(page.as_uri())
    painted = float(shown.until("the first paint", PAINTED))
    loaded = busy(shown)
    clock = float(shown.run(MOVE, TURNS))
    frame = (busy(shown) - loaded) / TURNS
    print(f"{int(page.stem):>9,} events: loaded in {1000 * loaded:.0f} ms", end=" ")
    print(f"(at most {PAINT_MS}; painted after {painted:.0f} ms by the clock),")
    print(f"          moved at {1 / frame:.0f} frames a second (at least {FRAMES};", end=" ")
    print(f"{clock:.0f} by the clock)")
    return 1000 * loaded <= PAINT_MS and frame <= 1 / FRAMES


def busy(shown: Browser) -> float:
    """Seconds that the page's thread has worked."""
    metrics = shown.devtools("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


if __name__ == "__main__":
    sys.exit(main())
