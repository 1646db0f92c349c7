# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace history`, and `why` of a pod that is gone: which agents are asked, and what of
their answers is shown."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubectl.conftest import Cluster, pod
from tracer.agent.history import table
from tracer.agent.history.query import Row
from tracer.agent.item import Life
from tracer.kubectl import agents
from tracer.kubectl.client import Kubectl
from tracer.kubectl.home import Home
from tracer.kubectl.pieces import Pieces
from tracer.kubectl.stream import Streams
from tracer.model.errors import KtraceError

SAMPLE = Path(__file__).parents[2] / "data" / "format-1.0.ktrace"
GONE = 'Error from server (NotFound): pods "web-0" not found'
EMPTY = table.to_object(Row(Life(), None))


def life(second: int, **more: Any) -> str:
    """A line of `ktrace history -o json`, of a death."""
    moment = f"2026-11-26T15:00:{second:02d}.000000000Z"
    told = {
        **{"time": moment, "ended": moment, "namespace": "shop", "pod": "web-0", "exit_code": 137},
        **{"verdict": "killed_from_host", "certainty": "certain", "sentence": "killed by a host"},
        "is_end": True,
    }
    return json.dumps({**EMPTY, **told, **more}) + "\n"


def asked(cluster: Cluster) -> list[tuple[str, str]]:
    """The nodes of the agents that were asked, and ktrace's words there."""
    return [
        (
            next(word for word in words if word.startswith("ktrace-node")).removeprefix("ktrace-"),
            " ".join(
                word for word in words[words.index("leash") + 2 :] if "--ready-file" not in word
            ),
        )
        for words in cluster.calls
        if "exec" in words
    ]


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    """Each agent knows of two deaths of shop/web-0, the later nodes of earlier ones."""
    cluster.agents("node1", "node2", "node3")
    every = [pod(f"ktrace-node{n}", "ktrace", f"node{n}") for n in (1, 2, 3)]
    cluster.answers(
        "get pods --namespace=ktrace --selector=app.kubernetes.io/name=ktrace --output",
        {"items": every},
    )
    for n in (1, 2, 3):
        out = life(10 - n) + life(20 - n)
        cluster.rule(f"exec .*ktrace-node{n} .*history", out=out, exit=0)
    cluster.refuses("get pod web-0", GONE)
    cluster.answers("get pods --namespace=shop", {"items": []})
    return cluster


def knows(cluster: Cluster, *nodes: int) -> None:
    """Only these know the pod."""
    for n in {1, 2, 3} - {*nodes}:
        words = "ktrace: the history knows nothing of 'shop/web-0'\n  ktrace history lists …"
        cluster.rule(f"exec .*ktrace-node{n} .*history", err=words, exit=5)


def test_all_nodes_in_order_of_time(three: Cluster) -> None:
    told = three("history", "--since", "2h")
    assert (told.code, told.err) == (0, "")
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[0] == ["TIME", "NODE", "POD", "CONTAINER", "CODE", "WHAT", "SURE"]
    assert [line[1] for line in lines[1:]] == [*("node3", "node2", "node1") * 2]
    assert lines[1][0] == "2026-11-26T15:00:07Z"
    assert sorted(asked(three)) == [
        (f"node{n}", "history --since=2h --output=json") for n in (1, 2, 3)
    ]
    assert three.manifests == []


def test_what_runs_comes_last(three: Cluster) -> None:
    alive = {"running": True, "verdict": None, "sentence": None, "certainty": None, "ended": None}
    three.rule("exec .*ktrace-node2 .*history", out=life(1, **alive), exit=0)
    last = three("history", "shop/web-0").out.splitlines()[-1].split()
    assert (last[1], last[-2]) == ("node2", "runs")


def test_json_names_the_node(three: Cluster) -> None:
    told = three("history", "--node", "node2", "-o", "json", "-n", "shop")
    lives = [json.loads(line) for line in told.out.splitlines()]
    assert lives == [{**json.loads(life(second)), "node": "node2"} for second in (8, 18)]
    assert asked(three) == [("node2", "history --namespace=shop --output=json")]


def test_a_pod_that_exists_is_known_on_its_node(three: Cluster) -> None:
    three.answers("get pod web-0", pod("web-0", on="node2"))
    told = three("history", "web-0")
    assert told.code == 0
    assert told.out.splitlines()[0].split()[:2] == ["TIME", "POD"]
    assert asked(three) == [("node2", "history web-0 --namespace=shop --output=json")]


def test_all_nodes_of_a_pod_that_exists(three: Cluster) -> None:
    """It may have lived elsewhere before."""
    three.answers("get pod web-0", pod("web-0", on="node2"))
    assert three("history", "shop/web-0", "--all-nodes").code == 0
    assert len(asked(three)) == 3


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (["web-0"], "web-0 --namespace=back"),
        (["web-*"], "web-* --namespace=back"),
        (["deploy/web"], "deploy/web --namespace=back"),
        (["shop/web-0"], "shop/web-0"),
        (["pod/web-0", "-n", "shop"], "web-0 --namespace=shop"),
        (["web-0", "-A"], "web-0"),
        (["3f2a9c77"], "3f2a9c77"),
        (["0c1d2e3f-0000-4000-8000-000000000001"], "0c1d2e3f-0000-4000-8000-000000000001"),
        (["shop/web-0", "-c", "app"], "-c app shop/web-0"),
    ],
)
def test_who_is_meant(three: Cluster, written: list[str], words: str) -> None:
    """A name without a namespace is of the context's, whether the pod exists or not."""
    three.refuses("get pod 3f2a9c77", GONE)
    three.rule("config view --minify", out="back")
    assert three("history", *written).code == 0
    assert {words for _, words in asked(three)} == {f"history {words} --output=json"}
    assert len(asked(three)) == 3


def test_only_one_knows(three: Cluster) -> None:
    knows(three, 2)
    told = three("history", "shop/web-0", "--no-headers")
    assert (told.code, told.err) == (0, "")
    assert [line.split()[1] for line in told.out.splitlines()] == ["node2", "node2"]


def test_nobody_knows(three: Cluster) -> None:
    knows(three)
    told = three("history", "shop/web-0")
    assert (told.code, told.out) == (5, "")
    assert told.err.splitlines()[0] == "ktrace: no history knows anything of 'shop/web-0'"


def test_a_node_that_fails_among_others(three: Cluster) -> None:
    words = "ktrace: a warning\nktrace: there is no history in /x\x1b[2J\n  --dir tells where"
    three.rule("exec .*ktrace-node3 .*history", err=words, exit=1)
    told = three("history")
    assert told.code == 1
    assert told.err == "ktrace: without node node3: there is no history in /x\\x1b[2J\n"
    assert len(told.out.splitlines()) == 5
    alone = three("history", "--node", "node3")
    assert alone.err == "ktrace: there is no history in /x\\x1b[2J\n  --dir tells where\n"


def test_what_an_agent_says_besides(three: Cluster) -> None:
    words = "ktrace: the index is missing or damaged: this is from the recordings"
    three.rule("exec .*ktrace-node3 .*history", err=words, exit=0)
    told = three("history")
    assert told.code == 0
    assert told.err == (
        "ktrace: node node3: the index is missing or damaged: this is from the recordings\n"
    )


def test_what_an_agent_says_besides_is_bounded(three: Cluster) -> None:
    words = "\n".join(f"ktrace: {n} {'x' * 1000}" for n in range(100))
    three.rule("exec .*ktrace-node3 .*history", err=words, exit=0)
    lines = three("history").err.splitlines()
    assert [line.split()[3] for line in lines] == [str(n) for n in range(60, 100)]
    assert max(map(len, lines)) < 700


def test_a_lost_connection(three: Cluster) -> None:
    three.rule("exec .*ktrace-node3 .*history", err="error: unexpected EOF", code=1)
    told = three("history")
    assert told.code == 1
    assert told.err == (
        "ktrace: without node node3: the connection to pod ktrace/ktrace-node3 was lost\n"
    )


@pytest.mark.parametrize(
    "line",
    ["\x1b[2J", "7", "[]", "{}", json.dumps({**EMPTY, "time": 7}), life(1, time={}).strip()],
)
def test_what_is_no_history(three: Cluster, line: str) -> None:
    three.rule("exec .*ktrace-node1 .*history", out=f"{line}\n", exit=0)
    told = three("history")
    assert (told.code, told.out) == (1, "")
    assert "the agent on node node1 says what is no part of a history: " in told.err
    assert "\x1b" not in told.err


def test_text_is_safe_for_a_terminal(three: Cluster) -> None:
    hostile = life(59, pod="x\x1b[2J", sentence="by \x07\u202e")
    three.rule("exec .*ktrace-node1 .*history", out=hostile, exit=0)
    row = three("history").out.splitlines()[-1]
    assert "shop/x\\x1b[2J" in row
    assert "by \\x07\\u202e" in row


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest are."""
    monkeypatch.setattr(agents, "MAX_KEPT", 3 * len(life(0)))
    lives = agents._Lives()
    for second in range(0, 10, 2):
        lives.take("a", life(second).encode())
        lives.take("b", life(second + 1).encode())
    assert [(one["time"] or "")[17:19] for one in lives.in_order()] == ["07", "08", "09"]
    assert lives.left_out == 7


def test_how_many_are_asked_at_once(three: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(three.place))
    monkeypatch.setattr(agents, "MAX_NODES", 2)
    at_once: list[list[str]] = []

    def begin(ends: list[Any], *more: Any) -> Streams:
        at_once.append([end.node for end in ends])
        return Streams(ends, *more)

    monkeypatch.setattr(agents, "Streams", begin)
    homes = [Home(f"node{n}", "ktrace", f"ktrace-node{n}", made=False) for n in (1, 2, 3)]
    answers = agents.ask(Kubectl(), homes, ["history"])
    assert at_once == [["node1", "node2"], ["node3"]]
    assert [life["node"] for life in answers.lives] == [*("node3", "node2", "node1") * 2]


def test_without_an_agent(cluster: Cluster) -> None:
    told = cluster("history")
    assert (told.code, told.out) == (1, "")
    (line,) = told.err.splitlines()
    assert line.startswith("ktrace: no agent runs in namespace ktrace, and only an agent keeps")
    assert "helm install ktrace deploy/kubernetes/chart -n ktrace --create-namespace" in line
    assert cluster.manifests == []


def test_a_node_without_an_agent(three: Cluster) -> None:
    three.answers("get node node9 ", {"metadata": {}, "status": {}})
    assert three("history", "--node", "node9").err.startswith(
        "ktrace: no agent runs on node node9\n"
    )
    three.refuses("get node node8 ", 'Error from server (NotFound): nodes "node8" not found')
    assert three("history", "--node", "node8").err.startswith("ktrace: node node8 is gone\n")


def test_without_the_right_to_see_agents(cluster: Cluster) -> None:
    lacks = (
        'Error from server (Forbidden): pods is forbidden: User "u" cannot list resource "pods" in'
        ' API group "" in the namespace "ktrace"'
    )
    cluster.refuses("get pods --namespace=ktrace", lacks)
    told = cluster("history")
    assert told.code == 3
    assert told.err.startswith("ktrace: no right to list pods in namespace ktrace\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "xml"], "-o 'xml' is none of table, wide, json"),
        (["--cut", "03:10..03:14"], "--cut needs a file"),
        (["--cut", "03:10..03:14", "-o", "json"], "--cut needs a file"),
        (["-l", "app=web"], "knows no labels"),
        (["-p", "web"], "one POD"),
        (["--image", "x"], "has no history"),
        (["--count", "3"], "No such option: --count"),
        (["--wait"], "No such option: --wait"),
    ],
)
def test_wrong_questions_ask_nobody(cluster: Cluster, words: list[str], said: str) -> None:
    told = cluster("history", *words)
    assert told.code == 2
    assert said in told.err
    assert cluster.calls == []


def test_ctrl_c(three: Cluster) -> None:
    three.rule("exec .*ktrace-node2 .*history", until_end=True, exit=130)
    asking = three.start("history")
    three.wait_for_call("exec")
    asking.send_signal(signal.SIGINT)
    out, _ = asking.communicate(timeout=60)
    assert (asking.returncode, out) == (130, "")


# Pieces


def sends(cluster: Cluster, content: bytes) -> None:
    """What ktrace writes there to standard output."""
    (cluster.place / "sent").write_bytes(content)
    program = (cluster.place / "kubectl").read_text()
    sent = "    os.write(1, open(f'{HERE}/sent', 'rb').read()) if 'exec' in words else None\n"
    flush = "    sys.stdout.flush()\n    token"
    assert flush in program
    (cluster.place / "kubectl").write_text(
        program.replace(flush, flush.replace("    token", sent + "    token"))
    )


def test_a_piece_arrives(three: Cluster) -> None:
    three.rule("exec", exit=0)
    sample = SAMPLE.read_bytes()
    sends(three, sample * 2)
    file = three.place / "incident.ktrace"
    told = three("history", "--cut", "03:10..03:14", "-o", str(file), "--node", "node1")
    more = three.place / "incident-2.ktrace"
    assert (told.code, told.out) == (0, "")
    assert told.err == "".join(f"ktrace: {path}: {len(sample)} bytes\n" for path in (file, more))
    assert file.read_bytes() == more.read_bytes() == sample
    assert file.stat().st_mode & 0o777 == 0o600
    assert asked(three) == [("node1", "history --cut=03:10..03:14 --output=-")]


def test_pieces_of_several_nodes(three: Cluster) -> None:
    """One of them holds nothing of that time."""
    three.rule("exec", exit=0)
    sends(three, SAMPLE.read_bytes())
    assert three("history", "--cut", "1..2", "-o", str(three.place / "x.ktrace")).code == 0
    files = sorted(path.name for path in three.place.glob("x*"))
    assert files == ["x.node1.ktrace", "x.node2.ktrace", "x.node3.ktrace"]


def test_nothing_of_that_time(three: Cluster) -> None:
    words = "ktrace: the history holds nothing between 1 and 2\n  ktrace history shows what"
    three.rule("exec", err=words, exit=1)
    told = three("history", "--cut", "1..2", "-o", str(three.place / "x"), "--node", "node1")
    assert (told.code, told.err) == (1, f"{words}\n")
    assert not (three.place / "x").exists()


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_recordings_are_told_apart_however_they_come(tmp_path: Path, size: int) -> None:
    sample = SAMPLE.read_bytes()
    sent = sample * 3 + sample[:-1]
    pieces = Pieces(["a", "b"], tmp_path / "x.ktrace")
    for at in range(0, len(sent), size):
        pieces.take("a", sent[at : at + size])
    pieces.gone("a")
    pieces.gone("b")
    names = ["x.a.ktrace", "x.a-2.ktrace", "x.a-3.ktrace", "x.a-4.ktrace"]
    assert pieces.paths == {"a": [tmp_path / name for name in names], "b": []}
    assert b"".join((tmp_path / name).read_bytes() for name in names) == sent
    assert (tmp_path / names[-1]).read_bytes() == sample[:-1]


@pytest.mark.parametrize("sent", [b"x", b"nonsense" * 1000, SAMPLE.read_bytes()[:100] + b"x" * 99])
def test_what_is_no_recording_is_kept_as_it_is(tmp_path: Path, sent: bytes) -> None:
    pieces = Pieces(["a"], tmp_path / "x")
    pieces.take("a", sent)
    pieces.gone("a")
    assert (tmp_path / "x").read_bytes() == sent


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.kubectl.pieces.MAX_FILES", 3)
    pieces = Pieces(["a"], tmp_path / "x")
    with pytest.raises(KtraceError, match="more than 3 recordings"):
        pieces.take("a", SAMPLE.read_bytes() * 4)
    assert len([*tmp_path.iterdir()]) == 3


# why


def answers(cluster: Cluster, n: int, text: str = "shop/web-0 app: killed\n  certain\n") -> None:
    """What the agent of a node says to `ktrace why`."""
    words = "ktrace: this was 5 s ago, says the agent's history; --next waits for the next"
    cluster.rule(f"exec .*ktrace-node{n} .* why", out=text, err=words, exit=0)


def test_why_of_a_pod_that_is_gone(three: Cluster) -> None:
    """Node 1 has seen its last end."""
    answers(three, 1)
    told = three("why", "shop/web-0", "-c", "app", "--backend", "core")
    assert (told.code, told.out) == (0, "shop/web-0 app: killed\n  certain\n")
    assert told.err.startswith("ktrace: this was 5 s ago, says the agent's history")
    every = asked(three)
    assert sorted(every[:3]) == [
        (f"node{n}", "history --container=app shop/web-0 --output=json") for n in (1, 2, 3)
    ]
    assert every[3:] == [("node1", "why -c app --backend=core shop/web-0 --color=never")]
    assert three.manifests == []


@pytest.mark.parametrize("second", [{"is_end": False}, {"is_end": None, "verdict": None}])
def test_an_end_with_a_verdict_is_the_best_answer(three: Cluster, second: dict[str, Any]) -> None:
    """Then harm, then that it lives or lived."""
    three.rule("exec .*ktrace-node1 .*history", out=life(59, **second), exit=0)
    knows(three, 1, 3)
    answers(three, 3)
    assert three("why", "web-0", "-n", "shop").code == 0
    assert asked(three)[-1] == ("node3", "why web-0 --namespace=shop --color=never")
    knows(three, 1)
    answers(three, 1)
    assert three("why", "web-0", "-n", "shop").code == 0
    assert asked(three)[-1] == ("node1", "why web-0 --namespace=shop --color=never")


def test_why_of_a_pod_that_nobody_knows(three: Cluster) -> None:
    knows(three)
    three.answers("get pods --namespace=shop", {"items": [pod("web-1")]})
    told = three("why", "shop/web-0")
    assert told.code == 5
    assert told.err.splitlines()[0] == (
        "ktrace: no pod 'shop/web-0' in namespace shop; the nearest: web-1; no agent's history"
        " knows of it"
    )


def test_why_where_some_do_not_answer(three: Cluster) -> None:
    knows(three)
    three.rule("exec .*ktrace-node2 .*history", err="ktrace: no disk", exit=1)
    told = three("why", "shop/web-0")
    assert told.code == 5
    assert "but of some nodes that is not known: node node2: no disk" in told.err


@pytest.mark.parametrize("option", ["--next", "--wait", "--image=x"])
def test_who_asks_for_the_future_is_not_told_the_past(three: Cluster, option: str) -> None:
    assert three("why", "shop/web-0", option).code == 5
    assert asked(three) == []


def test_next_of_a_pod_that_exists(three: Cluster) -> None:
    three.answers("get pod web-0", pod("web-0", on="node2"))
    answers(three, 2)
    assert three("why", "shop/web-0", "--next").code == 0
    assert asked(three) == [("node2", "why --next shop/web-0 --color=never")]


def test_why_where_no_agent_is(cluster: Cluster) -> None:
    cluster.refuses("get pod web-0", GONE)
    cluster.answers("get pods --namespace=shop", {"items": []})
    told = cluster("why", "shop/web-0")
    assert told.code == 5
    assert "of one that is gone an agent would know, but no agent runs in" in told.err
    assert cluster.manifests == []


def test_who_may_see_one_pod_only(cluster: Cluster) -> None:
    """The nearest are not known then, but that it is gone is."""
    lacks = (
        'Error from server (Forbidden): pods is forbidden: User "u" cannot list resource "pods" in'
        ' API group "" in the namespace "shop"'
    )
    cluster.refuses("get pods --namespace=shop", lacks)
    cluster.refuses("get pod web-0", GONE)
    told = cluster("why", "shop/web-0")
    assert told.code == 5
    assert told.err.startswith("ktrace: no pod 'shop/web-0' in namespace shop\n")


def test_without_a_context(three: Cluster) -> None:
    words = "error: current-context must exist in order to minify"
    three.refuses("config view", words)
    told = three("history", "web-0")
    assert told.code == 2
    assert "which namespace?" in told.err
