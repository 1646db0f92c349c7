# SPDX-License-Identifier: Apache-2.0
"""The cluster by itself, so that the tests of incidents may rely on it."""

from __future__ import annotations

import json
import sys

from tests.cluster.bed import Bed


def test_pods_run_and_ktrace_names_them(bed: Bed) -> None:
    bed.kubectl("run", "named", f"--image={bed.image}", "--", "sleep", "1000")
    bed.kubectl("wait", "--for=condition=Ready", "pod/named", "--timeout=50s")
    listed = bed.inside(sys.executable, "-m", "tracer", "pods", "-o", "json", check=True).stdout
    rows = [json.loads(line) for line in listed.splitlines()]
    assert ("default", "named") in [(row["namespace"], row["pod"]) for row in rows]
    bed.kubectl("delete", "pod", "named", "--now")
