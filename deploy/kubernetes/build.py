# SPDX-License-Identifier: Apache-2.0
"""Manifests for every node, in two levels: without access to the API server, and with Events.

The Helm chart in `chart/` is the source, but for its part on publishers, which comes from their
folder. What kustomize reads is the chart's output, kept beside it for those who have no Helm;
`python -m deploy.kubernetes` writes all of it anew.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy import ROOT, BuildError, version
from deploy.kubernetes.publishers import template, with_values

HERE = ROOT / "deploy" / "kubernetes"
CHART = HERE / "chart"
VALUES, PUBLISHERS = CHART / "values.yaml", CHART / "templates" / "_publishers.tpl"
NAMESPACE = "ktrace"
# Directories of kustomize, with the chart's values that make them.
LEVELS = {"base": (), "events": ("--set=events=true",)}
GENERATED = "# python -m deploy.kubernetes wrote this from ../chart\n"


def write() -> Iterator[Path]:
    chart = CHART / "Chart.yaml"
    text = re.sub(r"(?m)^((?:app)?[vV]ersion:) .*$", rf"\1 {version()}", chart.read_text())
    chart.write_text(text)
    yield chart
    VALUES.write_text(with_values(VALUES.read_text()))
    yield VALUES
    PUBLISHERS.write_text(template())
    yield PUBLISHERS
    for level in LEVELS:
        path = HERE / level / "ktrace.yaml"
        path.write_text(manifest(level))
        yield path


def manifest(level: str) -> str:
    """The chart with a level's values, without Helm's comments."""
    told = helm("template", "ktrace", str(CHART), f"--namespace={NAMESPACE}", *LEVELS[level])
    lines = [line for line in told.splitlines() if not line.startswith("# Source:")]
    return GENERATED + "\n".join(lines) + "\n"


def whole(level: str = "base") -> str:
    """One file for `kubectl apply -f`, with the namespace."""
    namespace = (HERE / "base" / "namespace.yaml").read_text()
    return namespace + (HERE / level / "ktrace.yaml").read_text().removeprefix(GENERATED)


def helm(*words: str) -> str:
    """What Helm says."""
    program = shutil.which("helm")
    if program is None:
        raise BuildError("making the manifests needs helm, of version 3 or 4, on the PATH")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"helm {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
