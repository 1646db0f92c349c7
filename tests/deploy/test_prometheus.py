# SPDX-License-Identifier: Apache-2.0
"""The alert rules by promtool; the dashboard asks only for metrics that there are."""

from __future__ import annotations

import json
import re

from deploy import ROOT
from tests.support.prometheus import promtool
from tracer import probes

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "ktrace.json"


def test_the_rules() -> None:
    assert "3 rules found" in promtool("check", "rules", "--lint-fatal", RULES / "rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", RULES / "rules.test.yaml")


def test_every_metric_is_one() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    known = set(re.findall(r"`(ktrace_\w+)`", page))
    for text in (DASHBOARD.read_text(), (RULES / "rules.yaml").read_text()):
        asked = set(re.findall(r"\bktrace_\w+", text))
        assert asked and asked <= known


def test_the_dashboard_shows_what_every_probe_counts() -> None:
    """A new one needs no panel of its own."""
    expressions = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    (pattern,) = {
        found[1] for one in expressions if (found := re.search(r'__name__=~"(.+?)"', one))
    }
    counted = [metric.name for name in probes.names() if (metric := probes.get(name).metric)]
    assert counted and all(re.fullmatch(pattern, f"ktrace_{name}_total") for name in counted)


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places), "no panel covers another"
