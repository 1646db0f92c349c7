# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.check [BASE]`: whether this checkout is slower than BASE, a tag, a commit or a
wheel; by default the last tag.

Both are installed in the same way, in folders of their own, and measured in turns in one run: on a
shared machine only a ratio of neighbours says something. A round is one measurement of each, and
what counts is the median of the rounds' ratios. Rates are by processor time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import why
from bench.quiet import Watch
from bench.signals import compile_storm
from bench.tracers import CPUS, Tracer, mount_tracefs, on_cpus, pinging, seconds_to_first_event

ROOT = Path(__file__).parents[1]
SIGNALS = 300_000
PATIENCE = 60.0
# A ratio above it is slower.
MOST = 1.05


@dataclass(frozen=True)
class House:
    """An installed ktrace."""

    name: str
    folder: Path

    def command(self, *words: str) -> tuple[str, ...]:
        """For its folder; the tests' environment has the packages that it needs."""
        where = ("env", "-C", str(self.folder), f"PYTHONPATH={self.folder}")
        return (*where, sys.executable, "-m", "tracer", *words)

    @property
    def probes(self) -> set[str]:
        folder = self.folder / "tracer" / "probes"
        return {path.parent.name for path in folder.glob("*/__init__.py")}


@dataclass
class Measure:
    """What is measured of a house, less is better; `rounds` is the number of pairs."""

    title: str
    unit: str
    take: Callable[[House], float]
    rounds: int
    figures: dict[str, list[float]] = field(default_factory=lambda: {"base": [], "here": []})

    @property
    def ratio(self) -> float:
        pairs = zip(self.figures["here"], self.figures["base"], strict=True)
        return median(here / base for here, base in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.check")
    parser.add_argument("base", nargs="?", default="", help="a tag, a commit or a wheel")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--loaded", action="store_true", help="measure a loaded machine, too")
    asked = parser.parse_args()
    if os.geteuid():
        raise SystemExit("bench.check needs root: it loads BPF programs")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    watch = Watch(asked.loaded)
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-", dir="/var/tmp") as name:
        scratch = Path(name)
        base = asked.base or last_tag()
        houses = [install("base", base, scratch), install("here", str(ROOT), scratch)]
        mount_tracefs()
        measures = list(everything(houses, scratch))
        for measure in measures:
            for number in range(measure.rounds):
                watch.look()
                say(f"{measure.title}, round {number + 1} of {measure.rounds}")
                for house in houses[:: -1 if number % 2 else 1]:
                    measure.figures[house.name].append(measure.take(house))
    show(measures, base, watch.words)
    if asked.write:
        publish(measures, base, watch.words)
    return any(measure.ratio > MOST for measure in measures)


def say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr)


def last_tag() -> str:
    done = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit("there is no tag to compare with: make bench-check BASE=COMMIT")
    return done.stdout.strip()


def install(name: str, what: str, scratch: Path) -> House:
    """`what` is a wheel, a revision, or this checkout."""
    say(f"installing {what}")
    source, folder = scratch / f"source-{name}", scratch / name
    if not what.endswith(".whl"):
        source.mkdir()
        packed = files_here() if what == str(ROOT) else files_of(what)
        subprocess.run(["tar", "-x", "-C", source], input=packed, check=True)
        what = str(source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--root-user-action=ignore", "--target", str(folder), what]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    shutil.rmtree(source, ignore_errors=True)
    return House(name, folder)


def files_of(revision: str) -> bytes:
    """As a tar."""
    words = ["git", "archive", revision]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{revision} is neither a wheel nor a revision")
    return done.stdout


def files_here() -> bytes:
    """With the changes that are not committed."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    there = b"\0".join(name for name in listed.split(b"\0") if (ROOT / os.fsdecode(name)).is_file())
    pack = ["tar", "-c", "--null", "--files-from=-"]
    return subprocess.run(pack, cwd=ROOT, input=there, stdout=subprocess.PIPE, check=True).stdout


def everything(houses: list[House], scratch: Path) -> list[Measure]:
    storm = compile_storm(scratch)
    recording = scratch / "million.ktrace"
    why.write(recording)
    shared = ",".join(sorted(set.intersection(*(house.probes for house in houses))))

    def first_event(house: House) -> float:
        words = house.command("signals", "--signal", "USR1", "--all", "-o", "json")
        with pinging(storm):
            return 1e3 * seconds_to_first_event(Tracer("ktrace", words, ""))

    def attached(house: House) -> float:
        return 1e3 * seconds_to_ready(house, shared, scratch)

    def help_(house: House) -> float:
        begin = time.monotonic()
        subprocess.run(house.command("--help"), stdout=subprocess.DEVNULL, check=True)
        return 1e3 * (time.monotonic() - begin)

    def shown(house: House) -> float:
        return microseconds_an_event(house, storm, scratch)

    def replayed(house: House) -> float:
        return 1e6 * processor(house, "replay", str(recording), "-o", "json") / why.EVENTS

    def explained(house: House) -> float:
        return processor(house, "why", str(recording), "-o", "json")

    return [
        Measure("--help", "ms", help_, 11),
        Measure("cold start to the first signal", "ms", first_event, 15),
        Measure("until all probes are attached", "ms", attached, 11),
        Measure("an event of a storm as JSON", "µs", shown, 5),
        Measure("a replayed event as JSON", "µs", replayed, 3),
        Measure("why on a million events", "s", explained, 3),
    ]


def seconds_to_ready(house: House, probes: str, scratch: Path) -> float:
    ready = scratch / "ready"
    ready.unlink(missing_ok=True)
    words = house.command("trace", probes, "--all", "-o", "json", "--ready-file", str(ready))
    begin = time.monotonic()
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(ready.exists, running)
        return time.monotonic() - begin
    finally:
        running.terminate()
        running.wait(PATIENCE)


def microseconds_an_event(house: House, storm: Path, scratch: Path) -> float:
    """Of the tracer's processor time, from the first event to the last. Storm and tracer have a
    processor each, if there are two."""
    ready, output = scratch / "ready", scratch / "output"
    ready.unlink(missing_ok=True)
    words = house.command("signals", "--signal", "USR1", "--all", "-o", "json")
    with output.open("wb") as out, on_cpus(CPUS[1:] or CPUS):
        running = subprocess.Popen(
            (*words, "--ready-file", str(ready)), stdout=out, stderr=subprocess.DEVNULL
        )
    try:
        wait(ready.exists, running)
        before = ticks(running.pid)
        with on_cpus(CPUS[:1]):
            subprocess.run([storm, str(SIGNALS)], stdout=subprocess.DEVNULL, check=True)
        size, since = -1, time.monotonic()
        while time.monotonic() < since + 0.5:
            if (now := output.stat().st_size) != size:
                size, since = now, time.monotonic()
            time.sleep(0.02)
        took = (ticks(running.pid) - before) / os.sysconf("SC_CLK_TCK")
    finally:
        running.terminate()
        running.wait(PATIENCE)
    with output.open("rb") as lines:
        return 1e6 * took / max(1, sum(line.startswith(b'{"kind":"signal"') for line in lines))


def processor(house: House, *words: str) -> float:
    """Seconds of processor time of a whole command."""
    running = subprocess.Popen(
        house.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr
    said = running.stderr.read()
    _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode not in (0, 1):
        raise SystemExit(f"{house.name}: {' '.join(words)} ended with {running.returncode}: {said}")
    return usage.ru_utime + usage.ru_stime


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait(there: Callable[[], bool], running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        if running.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{' '.join(map(str, running.args))} does not start")  # type: ignore[arg-type]
        time.sleep(0.001)


def show(measures: list[Measure], base: str, where: str) -> None:
    table = Table(title=f"this checkout beside {base}; {where}", title_justify="left")
    for title in TITLES:
        table.add_column(title, justify="left" if title == TITLES[0] else "right", no_wrap=True)
    for row in rows(measures):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


TITLES = ("median (least … most)", "base", "here", "ratio", "")


def rows(measures: list[Measure]) -> list[tuple[str, ...]]:
    return [
        (
            f"{measure.title}, {measure.unit}",
            *(spread(measure.figures[name]) for name in ("base", "here")),
            f"{measure.ratio:.2f}",
            "SLOWER" if measure.ratio > MOST else "ok",
        )
        for measure in measures
    ]


def spread(figures: list[float]) -> str:
    form = "{:.0f}" if min(figures) >= 20 else "{:.2f}"
    middle, least, most = map(form.format, (median(figures), min(figures), max(figures)))
    return f"{middle} ({least} … {most})"


def publish(measures: list[Measure], base: str, where: str) -> None:
    from bench.__main__ import machine, write

    texts = [TITLES, *rows(measures)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(TITLES))]
    lines = [
        "  ".join(
            text.ljust(width) if not at else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    ]
    output = f"base is {base}\n\n" + "\n".join(lines)
    write("make bench-check", "Beside what was before", f"{machine()}; {where}", output)


if __name__ == "__main__":
    sys.exit(main())
