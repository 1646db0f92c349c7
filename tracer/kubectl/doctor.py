# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace doctor`: the whole cluster, one line for each node, and leftover pods."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tracer.kubectl import nodes
from tracer.kubectl.arguments import Request
from tracer.kubectl.client import Forbidden, Kubectl
from tracer.kubectl.home import CONTAINER, OWNER, Home, Homes, leftovers
from tracer.kubectl.session import in_parallel, interruptible, take_away, tell
from tracer.model.errors import KtraceError
from tracer.outputs.escape import escape

DOCTOR_SECONDS = 90.0
MAX_FINDINGS = 1000
TITLES = ("NODE", "KERNEL", "RUNTIME", "KTRACE", "FOUND")


def run(request: Request) -> int:
    """Returns 1 if anything is wrong anywhere, as `ktrace doctor` does."""
    kubectl = Kubectl(request.kubectl)
    known = _nodes(kubectl, request)
    unfit = {name: nodes.unfit(name, node) for name, node in known.items()}
    homes = Homes(kubectl, request, tell, DOCTOR_SECONDS)
    looked: dict[str, tuple[Home, list[Mapping[str, Any]]]] = {}
    problems: dict[str, KtraceError] = {}
    left = leftovers(kubectl, request.home)
    with interruptible():
        try:
            fit = [name for name, problem in unfit.items() if problem is None]
            looked, problems = in_parallel(fit, lambda name: _look(kubectl, homes, name))
        finally:
            take_away(homes)
    wrong = dict.fromkeys(known, "")
    wrong |= {name: problem for name, problem in unfit.items() if problem}
    wrong |= {name: problem.message for name, problem in problems.items()}
    if request.output == "json":
        _print_json(looked, wrong, left)
    else:
        _print_table(known, looked, wrong, request.headers)
        _print_left(left)
    every = [one for _, findings in looked.values() for one in findings]
    return 1 if problems or any(one.get("state") == "problem" for one in every) else 0


def _nodes(kubectl: Kubectl, request: Request) -> dict[str, Any]:
    """The nodes to check. A user without the right to list nodes may still name one."""
    try:
        every = {str(one["metadata"]["name"]): one for one in kubectl.get("nodes")["items"]}
    except Forbidden:
        if not request.nodes:
            raise
        return {name: {"metadata": {"name": name}} for name in request.nodes}
    for name in request.nodes:
        if name not in every:
            raise KtraceError(f"node {name} is gone", "kubectl get nodes tells which there are")
    return {name: every[name] for name in request.nodes or every}


def _look(kubectl: Kubectl, homes: Homes, node: str) -> tuple[Home, list[Mapping[str, Any]]]:
    """Checks a node. Its pod is removed right after, because a cluster may have many nodes."""
    home = homes.agent(node) or homes.make(node)
    try:
        return home, _ask(kubectl, home)
    finally:
        homes.leave(home)


def _ask(kubectl: Kubectl, home: Home) -> list[Mapping[str, Any]]:
    import orjson

    done = subprocess.run(
        kubectl.command(
            *("exec", f"--namespace={home.namespace}", home.pod, f"--container={CONTAINER}"),
            *("--", "ktrace", "doctor", "--output=json"),
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=DOCTOR_SECONDS,
        check=False,
    )
    try:
        lines = done.stdout.splitlines()[:MAX_FINDINGS]
        findings = [orjson.loads(line) for line in lines]
        if not findings or not all(isinstance(one, dict) for one in findings):
            raise ValueError
    except ValueError:
        said = " ".join(done.stderr.decode("utf-8", "backslashreplace").split())[:300]
        where = f"{home.namespace}/{home.pod}"
        raise KtraceError(f"ktrace doctor in pod {where} says nothing: {said}") from None
    return findings


def _print_json(
    looked: Mapping[str, tuple[Home, Sequence[Mapping[str, Any]]]],
    wrong: Mapping[str, str],
    left: Sequence[Mapping[str, Any]],
) -> None:
    import orjson

    every: list[Mapping[str, Any]] = []
    for name, problem in wrong.items():
        findings: Sequence[Mapping[str, Any]] = looked[name][1] if name in looked else ()
        every += [{"node": name, **one} for one in findings]
        if problem:
            told = {"state": "problem", "what": "node", "found": problem, "remedy": None}
            every.append({"node": name, **told})
    for pod in left:
        found = f"left by {_owner(pod)}: {_pod(pod)}"
        told = {"state": "note", "what": "leftover", "found": found, "remedy": _delete(pod)}
        every.append({"node": pod["spec"].get("nodeName"), **told})
    for one in every:
        sys.stdout.buffer.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def _print_table(
    known: Mapping[str, Mapping[str, Any]],
    looked: Mapping[str, tuple[Home, Sequence[Mapping[str, Any]]]],
    wrong: Mapping[str, str],
    headers: bool,
) -> None:
    """Remedies stand below their node, not wrapped, because they may be commands to copy."""
    rows = [list(TITLES)] if headers else []
    below: list[list[str]] = [[]] if headers else []
    for name, node in known.items():
        info = (node.get("status") or {}).get("nodeInfo") or {}
        home, findings = looked.get(name, (None, ()))
        bad = [one for one in findings if one.get("state") == "problem"]
        notes = [one for one in findings if one.get("state") == "note"]
        if wrong[name]:
            words = f"✘ {wrong[name]}"
        elif bad:
            words = f"✘ {len(bad)} {'problem' if len(bad) == 1 else 'problems'}"
        else:
            words = "✔" + (f" {len(notes)} notes" if notes else "")
        where = "–" if home is None else "a pod made for this" if home.made else home.pod
        runtime = info.get("containerRuntimeVersion", "–")
        rows.append([name, info.get("kernelVersion", "–"), runtime, where, words])
        below.append([line for one in bad for line in _told(one)])
    shown = [[escape(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    for row, lines in zip(shown, below, strict=True):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
        for line in lines:
            print(line)


def _told(finding: Mapping[str, Any]) -> list[str]:
    lines = [f"  {finding.get('what')}: {finding.get('found')}"]
    if finding.get("remedy"):
        lines.append(f"    → {finding['remedy']}")
    return [escape(line) for line in lines]


def _print_left(left: Sequence[Mapping[str, Any]]) -> None:
    for pod in left:
        since = pod["metadata"].get("creationTimestamp", "–")
        on = (pod.get("spec") or {}).get("nodeName", "no node")
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        state = "left" if ended else "in use, or left just now"
        words = f"{state}: pod {_pod(pod)} on {on}, made by {_owner(pod)} at {since}"
        print(escape(words))
        print(f"  → {escape(_delete(pod))}")


def _pod(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _owner(pod: Mapping[str, Any]) -> str:
    about = pod["metadata"]
    told = (about.get("annotations") or {}).get(OWNER) or (about.get("labels") or {}).get(OWNER)
    return str(told or "somebody")[:200]


def _delete(pod: Mapping[str, Any]) -> str:
    import shlex

    about = pod["metadata"]
    return shlex.join(["kubectl", "delete", "pod", about["name"], "-n", about["namespace"]])
