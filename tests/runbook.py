# SPDX-License-Identifier: Apache-2.0
"""`make runbook`: writes what ktrace prints into the pages of docs/runbook/.

A block behind `<!-- incident: NAME -->` becomes what `ktrace why` prints of that incident
(tests/support/incidents.py), staged in a real pod just now; one behind `<!-- run: COMMAND -->`
becomes what that command prints. Nothing in those blocks is written by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click

from tests.support.containerd import Containerd
from tests.support.incidents import INCIDENTS, explanation, mishap
from tests.support.ktrace import ROOT

PAGES = ROOT / "docs" / "runbook"
BLOCK = re.compile(
    r"<!-- (?P<kind>incident|run): (?P<what>[^\n]+) -->\n```\n(?P<text>.*?)```\n", re.S
)


def main() -> None:
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
            text = page.read_text(encoding="utf-8")
            page.write_text(BLOCK.sub(told, text), encoding="utf-8")


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
    main()
