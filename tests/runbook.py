# SPDX-License-Identifier: Apache-2.0
"""`make runbook`: writes what ktrace prints into the pages of docs/runbook/.

A block behind `<!-- incident: NAME -->` becomes what `ktrace why` prints of that incident
(tests/support/incidents.py), staged in a real pod just now; one behind `<!-- run: COMMAND -->`
becomes what that command prints. Nothing in those blocks is written by hand.

Beside `why`, everything that happens to the pods of a page is recorded, and made the page's report
in docs/runbook/reports/. `python -m tests.runbook oomkilled disk-full` does some pages only.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.support.containerd import Containerd
from tests.support.incidents import INCIDENTS, explanation, mishap
from tests.support.ktrace import ROOT, Ktrace
from tests.support.ktrace import run as ktrace_once

PAGES = ROOT / "docs" / "runbook"
REPORTS = PAGES / "reports"
INCIDENT = "<!-- incident: "
BLOCK = re.compile(
    r"<!-- (?P<kind>incident|run): (?P<what>[^\n]+) -->\n```\n(?P<text>.*?)```\n", re.S
)


def main(*names: str) -> None:
    by_name = {one.name: one for one in INCIDENTS}
    with Containerd(extra_files={"/mishap": mishap()}) as containerd:

        def told(block: re.Match[str]) -> str:
            kind, what = block["kind"], block["what"]
            click.echo(f"· {what}", err=True)
            if kind == "run":
                shown = f"$ {what}\n{printed(what)}"
            else:
                one = by_name[what]
                target = "incident.ktrace" if one.recorded else "shop/web-0"
                command = " ".join(("ktrace why", target, *one.options))
                shown = f"$ {command}\n{explanation(one, containerd, 'text')}"
            return f"<!-- {kind}: {what} -->\n```\n{shown.rstrip()}\n```\n"

        for page in sorted(PAGES.glob("*.md")):
            if not names or page.stem in names:
                text = page.read_text(encoding="utf-8")
                with reported(page.stem, containerd) if INCIDENT in text else nullcontext():
                    text = BLOCK.sub(told, text)
                page.write_text(text, encoding="utf-8")


@contextmanager
def reported(name: str, containerd: Containerd) -> Iterator[None]:
    """Makes a report of what happens meanwhile to the pods of the incidents."""
    with TemporaryDirectory(prefix="ktrace-test-") as scratch:
        file = Path(scratch, f"{name}.ktrace")
        pods = (
            "--wait",
            "-p",
            "shop/web-0",
            "-p",
            "system/*",
            "--cri-socket",
            str(containerd.socket),
        )
        with Ktrace("record", *pods, output=str(file)) as ktrace:
            yield
            ktrace.signal(signal.SIGINT)
            assert ktrace.exit_code() == 0, ktrace.stderr
        REPORTS.mkdir(exist_ok=True)
        page = REPORTS / f"{name}.html"
        # arguments have paths of the machine that staged it
        made = ktrace_once("report", str(file), "--no-argv", "-o", str(page))
        assert made.returncode == 0, made.stderr
        page.chmod(0o644)


def printed(command: str) -> str:
    """By a shell, because pages show redirections. The commands stand in the pages."""
    ktrace = f"{sys.executable} -m tracer "
    done = subprocess.run(
        ["sh", "-c", command.replace("ktrace ", ktrace, 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make runbook needs root: it loads BPF programs and starts containers")
    main(*sys.argv[1:])
