# SPDX-License-Identifier: Apache-2.0
"""What comes from the nodes, and what of it is shown: in order, whole, and safe for a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubectl.conftest import Cluster
from tracer import probes
from tracer.kubectl import show, stream
from tracer.kubectl.show import InOrder, Recordings, Text, path_of, visible
from tracer.model.errors import KtraceError
from tracer.model.event import Clock
from tracer.outputs.rows import Rows

SAMPLE = Path(__file__).parents[2] / "data" / "format-1.0.ktrace"
COLUMNS = {"columns": [["SIGNAL", 7, 11, 0], ["POD", 14, 40, 1]]}


def event(second: int, **more: Any) -> str:
    told = {"kind": "signal", "time": f"2026-11-26T15:00:{second:02d}.000000000Z", "node": None}
    return json.dumps({**told, **more}) + "\n"


def row(second: int, *cells: str | None) -> str:
    told = {"time": second * 1_000_000_000, "alarm": False, "cells": cells}
    return json.dumps(told) + "\n"


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    cluster.agents("node1", "node2", "node3")
    return cluster


def test_json_of_several_nodes_in_order_of_time(three: Cluster) -> None:
    """Whichever comes first: the third comes a moment later."""
    for n in (1, 2, 3):
        out = "".join(event(second) for second in range(n, 30, 3))
        three.rule(f"exec .*ktrace-node{n}", out=out, exit=0, seconds=0.1 * (n == 3))
    told = three("signals", "--all-nodes", "-o", "json")
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [one["time"][17:19] for one in events] == [f"{second:02d}" for second in range(1, 30)]
    assert [one["node"] for one in events[:4]] == ["node1", "node2", "node3", "node1"]


def test_a_table_of_several_nodes(three: Cluster) -> None:
    for n in (1, 2, 3):
        out = json.dumps(COLUMNS) + "\n" + row(n, "SIGKILL", f"shop/web-{n}\x1b[2J")
        three.rule(f"exec .*ktrace-node{n}", out=out, exit=0)
    told = three("signals", "--all-nodes")
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[0] == ["TIME", "NODE", "SIGNAL", "POD"]
    assert lines[1:] == [
        [f"00:00:0{n}.000", f"node{n}", "SIGKILL", rf"shop/web-{n}\x1b[2J"] for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("name", probes.names())
def test_a_table_of_any_probe_names_the_nodes(three: Cluster, name: str) -> None:
    """Beside the probe's own columns, of which none is hidden by it."""
    told = io.BytesIO()
    clock = Clock(0)
    columns = probes.get(name).columns
    Rows(told, clock, columns, lambda event: False, wide=True).flush()
    cells = [f"cell{n}" for n in range(len(columns))]
    for n in (1, 2, 3):
        out = told.getvalue().decode() + row(n, *cells)
        three.rule(f"exec .*ktrace-node{n}", out=out, exit=0)
    title, *rows = three(name, "--all-nodes", "-o", "wide").out.splitlines()
    assert title.split()[:2] == ["TIME", "NODE"]
    assert all(column.title in title for column in columns)
    assert [line.split()[1] for line in rows] == ["node1", "node2", "node3"]
    assert all(cell in line for cell in cells for line in rows)


def test_losses_say_whose(three: Cluster) -> None:
    lost = {"time": 1, "lost": {"count": 23, "probe": "signals"}}
    for n in (1, 2, 3):
        out = json.dumps(COLUMNS) + "\n" + json.dumps(lost) + "\n" * (n == 2)
        three.rule(f"exec .*ktrace-node{n}", out=out if n == 2 else "", exit=0)
    told = three("signals", "--all-nodes", "--no-headers")
    assert told.out == "!! 23 node2's signals events lost here: too fast to be read\n"


def test_a_node_that_fails_among_others(three: Cluster) -> None:
    """What the others tell is shown, and the exit code is not 0."""
    three.rule("exec .*ktrace-node[12]", out=event(1), exit=0)
    three.rule("exec .*ktrace-node3", err="ktrace: no pod 'web' on this node", exit=5)
    told = three("signals", "--all-nodes", "-o", "json")
    assert told.code == 5
    assert len(told.out.splitlines()) == 2
    assert told.err == "node3: ktrace: no pod 'web' on this node\n"


def test_a_node_that_cannot_be_asked(three: Cluster) -> None:
    three.refuses("get node node2 ", 'Error from server (NotFound): nodes "node2" not found')
    three.answers("get pods --namespace=ktrace .*nodeName=node2", {"items": []})
    three.rule("exec", out=event(1), exit=0)
    told = three("signals", "--all-nodes", "-o", "json")
    assert len(told.out.splitlines()) == 2
    assert told.err == "ktrace: without node node2: node node2 is gone\n"


def test_a_count_is_of_all_together(three: Cluster) -> None:
    for n in (1, 2, 3):
        out = "".join(event(second) for second in range(n, 30, 3))
        three.rule(f"exec .*ktrace-node{n}", out=out, until_end=True, exit=0)
    told = three("signals", "--all-nodes", "-o", "json", "--count", "7")
    assert len(told.out.splitlines()) == 7
    assert told.code == 0


def test_what_is_no_event(cluster: Cluster) -> None:
    cluster.rule("exec", out="\x1b]0;title\x07\n", exit=0)
    told = cluster("signals", "-o", "json")
    assert told.code == 1
    assert told.err.startswith(
        r"ktrace: ktrace on node node1 says what is no event: \x1b]0;title\x07"
    )
    assert cluster.remains() == set()


@pytest.mark.parametrize("columns", [7, [["A"]], [[1, 2, "x", 4]], [["A", None, 1, 1]]])
def test_columns_that_are_none(cluster: Cluster, columns: Any) -> None:
    out = json.dumps({"columns": columns}) + "\n" + row(1, "x")
    cluster.rule("exec", out=out, exit=0)
    told = cluster("signals")
    assert (told.code, told.out) == (1, "")
    assert "says what is no event" in told.err


def test_text_is_safe_for_a_terminal(cluster: Cluster) -> None:
    cluster.rule("exec", out="\x1b[1mshop/web-0: killed\x1b[0m\n  by \x1b[2J\x07\n", exit=0)
    cluster.answers("get pods --namespace=shop", {"items": []})
    told = cluster("why", "shop/web-*", "--node", "node1", "--wait")
    assert told.out == "\x1b[1mshop/web-0: killed\x1b[0m\n  by \\x1b[2J\\x07\n"


def test_verdicts_are_not_torn_apart(capsys: pytest.CaptureFixture[str]) -> None:
    text = Text(["a", "b"], named=False, verdicts=True)
    text.take("a", b"web-0: killed\n  cer")
    text.take("b", b"web-1: stopped\n  likely\n")
    text.take("a", b"tain\n\n  do: x\nweb-2: ended\n")
    text.gone("a")
    text.gone("b")
    assert capsys.readouterr().out == (
        "web-0: killed\n  certain\n\n  do: x\nweb-2: ended\nweb-1: stopped\n  likely\n"
    )


def test_other_text_names_its_node(three: Cluster) -> None:
    three.rule("exec", out="POD\nweb\n", exit=0)
    lines = three("pods", "--all-nodes").out.splitlines()
    assert sorted(lines) == sorted(f"node{n}  {word}" for n in (1, 2, 3) for word in ("POD", "web"))


def test_colours_stay_and_nothing_else() -> None:
    assert visible("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    assert visible("\x1b[2J\x1b]0;x\x07\u202e") == "\\x1b[2J\\x1b]0;x\\x07\\u202e"


def test_who_says_nothing_holds_the_others_for_a_moment_only() -> None:
    now = [0.0]
    order = InOrder(["a", "b"], lambda: now[0])
    order.add("a", 2, "second")
    assert list(order.due()) == []
    order.add("b", 1, "first")
    assert list(order.due()) == ["first"]
    now[0] += show.HOLD_SECONDS
    assert list(order.due()) == ["second"]
    order.add("a", 4, "fourth")
    order.gone("b")
    assert list(order.due()) == ["fourth"]


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "MAX_HELD", 3)
    order = InOrder(["a", "b"], lambda: 0.0)
    for moment in range(5):
        order.add("a", moment, moment)
    assert list(order.due()) == [0, 1]


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "MAX_LINE", 1000)
    with pytest.raises(KtraceError, match="a line of more than"):
        show.Lines().of("node1", b"x" * 1001)


def test_a_recording_arrives_whole(cluster: Cluster) -> None:
    cluster.rule("exec", exit=0)
    program = (cluster.place / "kubectl").read_text()
    sent = f"    os.write(1, open({str(SAMPLE)!r}, 'rb').read()) if 'exec' in words else None\n"
    (cluster.place / "kubectl").write_text(
        program.replace(
            "    sys.stdout.flush()\n    token", f"    sys.stdout.flush()\n{sent}    token"
        )
    )
    file = cluster.place / "here.ktrace"
    os.umask(0o022)
    told = cluster("record", "-o", str(file))
    assert (told.code, told.out) == (0, "")
    assert told.err == f"ktrace: {file}: {SAMPLE.stat().st_size} bytes\n"
    assert file.read_bytes() == SAMPLE.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (words,) = (words for words in cluster.calls if "exec" in words)
    assert "--output=-" in words


def test_a_recording_whose_end_is_missing(cluster: Cluster) -> None:
    cluster.rule("exec", out="half of it", exit=0)
    told = cluster("record", "-o", str(cluster.place / "here.ktrace"))
    assert told.code == 1
    assert "its end has not arrived" in told.err


def test_a_recording_of_several_nodes(tmp_path: Path) -> None:
    sink = Recordings(["a", "b"], tmp_path / "here.ktrace")
    sink.take("a", b"of a")
    sink.take("b", b"of b")
    for node in ("a", "b"):
        sink.gone(node)
        assert (tmp_path / f"here.{node}.ktrace").read_bytes() == f"of {node}".encode()
    assert path_of(Path("x/here.ktrace"), "a", 1) == Path("x/here.ktrace")


def test_rows_make_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node tells of each cell, drawn here, is what it would have drawn itself."""
    for output, rows in (("table", "rows"), ("wide", "rows-wide")):
        drawn = io.StringIO()
        monkeypatch.setattr(sys, "stdout", drawn)
        sink = show.Drawn(["node1"], None, wide=output == "wide", colour=False, headers=True)
        sink.take("node1", replayed(rows))
        sink.close()
        monkeypatch.undo()
        assert columns_alike(drawn.getvalue()) == columns_alike(replayed(output).decode())


def columns_alike(table: str) -> str:
    """How wide they are depends on what came together."""
    return re.sub(" {2,}", "  ", table)


def replayed(output: str) -> bytes:
    command = [sys.executable, "-m", "tracer", "replay", str(SAMPLE), "-o", output]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_a_silent_node_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a laptop was asleep: nothing says that the other end is gone."""
    from tracer.kubectl.client import Kubectl
    from tracer.kubectl.home import Home

    monkeypatch.setenv("PATH", str(cluster.place))
    monkeypatch.setattr(stream, "SILENT_SECONDS", 0.3)
    cluster.rule("exec", stays=1, ready=False)
    said: list[str] = []
    end = stream.End(Kubectl(), Home("node1", "ktrace", "pod", made=False), ["signals"], True)
    text = Text(["node1"], named=False)
    streams = stream.Streams([end], text, lambda node, line: said.append(line), lambda: None)
    assert streams.run() == 1
    assert "the connection is given up" in said[0]
