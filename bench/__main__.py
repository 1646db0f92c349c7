# SPDX-License-Identifier: Apache-2.0
"""Measurements one after the other, as `make bench` makes them.

    python -m bench [--write] [--loaded] [NAME…]

With `--write`, what each prints goes into docs/performance.md. A loaded machine is refused, or with
`--loaded` marked.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.quiet import Watch
from tests.support.markdown import Part, measured

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
# What is measured, and what for.
BENCHES = {
    "signals": "Beside bpftrace and sigsnoop",
    "costs": "What the probes cost a healthy machine",
    "packets": "Packets and connects, beside bpftrace and dropwatch",
    "disk": "How long arming `disk` takes",
    "ring": "Out of the kernel's ring",
    "recording": "Recordings",
    "live": "The live view",
    "why": "`why` on a million events",
    "report": "Pages of recordings, made and shown",
    "ends": "From a container's end to `why`",
    "backends": "The backends",
    "agent": "The agent",
    "churn": "While pods come and go",
    "kubectl": "From kubectl to the first event",
    "startup": "The bundle beside a virtual environment",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)}")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--loaded", action="store_true", help="measure a loaded machine, too")
    asked = parser.parse_args()
    if unknown := set(asked.names) - BENCHES.keys():
        parser.error(f"there is no {' and no '.join(sorted(unknown))}: {', '.join(BENCHES)}")
    failed = []
    for name in asked.names or BENCHES:
        watch = Watch(asked.loaded)
        watch.look()
        print(f"bench: {name}", file=sys.stderr)
        output, code = run(name)
        if code:
            failed.append(name)
        if asked.write and output:
            write(f"make bench ({name})", BENCHES[name], f"{machine()}; {watch.words}", output)
    if failed:
        print(f"bench: an aim was missed, or nothing could be measured: {', '.join(failed)}")
    return bool(failed)


def run(name: str) -> tuple[str, int]:
    """Its standard output, which is also shown."""
    command = [sys.executable, "-m", f"bench.{name}"]
    environment = {**os.environ, "COLUMNS": "150"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout
        lines = []
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), running.returncode


def machine() -> str:
    return f"{os.cpu_count()} processors, {platform.release()} {platform.machine()}"


def write(command: str, title: str, where: str, output: str) -> None:
    """In place of its last output, or as a section of its own at the end of the page."""
    part, text = Part(command), PAGE.read_text()
    if part.begin not in text:
        text += f"\n## {title}\n\n{part.begin}\n{part.end}\n"
    # the terminal's lines, and none that could end the block
    lines = [line.rstrip().replace("```", "'''") for line in output.splitlines()]
    body = f"{where}.\n\n```\n" + "\n".join(lines).strip("\n") + f"\n```\n\n{measured()}"
    PAGE.write_text(part.replaced(text, body))


if __name__ == "__main__":
    sys.exit(main())
