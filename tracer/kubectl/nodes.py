# SPDX-License-Identifier: Apache-2.0
"""Chooses the nodes to ask, and the exact pods.

As with kubectl, a pod without a namespace belongs to the context's namespace. ktrace on a node
knows no context, so it is given the namespace from the API server's answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from tracer.kubectl.arguments import Request
from tracer.kubectl.client import Forbidden, Kubectl, Refused
from tracer.model.errors import KtraceError, NoSuchPod, UsageError

# The most nodes at once: each is a kubectl process here.
MAX_NODES = 64
# How many names an error lists.
MAX_NAMED = 8


@dataclass(frozen=True)
class Asked:
    """The nodes to ask, and the words that select the pods there."""

    nodes: tuple[str, ...]
    pods: tuple[str, ...]
    namespaces: tuple[str, ...]
    to_come: bool = False  # a node may not know them yet

    @property
    def several(self) -> bool:
        return len(self.nodes) > 1


def find(kubectl: Kubectl, request: Request) -> Asked:
    """Raises `NoSuchPod` if no pod matches, and `UsageError` if nothing identifies the node."""
    from tracer.model.selection import without_kind

    pods = [without_kind(pod) for pod in request.pods]
    if request.command == "why" and request.target:
        pods.insert(0, without_kind(request.target))
    about_pods = bool(pods or request.labels or set(request.namespaces) - {"*"})
    asked = Asked((), tuple(pods), (), to_come=request.wait)
    if about_pods:
        asked = _of_pods(kubectl, request, pods)
    if request.nodes:
        return bounded(replace(asked, nodes=tuple(dict.fromkeys(request.nodes))))
    if request.all_nodes:
        return bounded(replace(asked, nodes=tuple(every_node(kubectl))))
    if not about_pods:
        every = list(every_node(kubectl))
        if len(every) != 1:
            raise UsageError(
                f"which of {len(every)} nodes? {_some(every)}",
                "a pod, -n or -l chooses its nodes; else --node NAME or --all-nodes",
            )
        return replace(asked, nodes=tuple(every))
    return bounded(asked)


def lived(kubectl: Kubectl, request: Request) -> Asked:
    """Where a history is asked for, and about whom: no node if any may know."""
    from tracer.model.selection import without_kind

    chosen = tuple(namespace for namespace in request.namespaces if namespace != "*")
    if not request.target:
        return Asked((), (), chosen)
    what = without_kind(request.target)
    before = _namespace(what)
    scopes = [before] if before else request.namespaces
    pod = None
    if len(scopes) < 2 and all(map(_is_plain, [what, *scopes])):
        name = what.rpartition("/")[2]
        with suppress(Forbidden):  # an agent may know nevertheless
            pod = kubectl.get("pod", name, *(f"--namespace={scope}" for scope in scopes))
    if not (scopes or (_is_id(what) and not pod)):
        chosen = (pod["metadata"]["namespace"] if pod else _of_context(kubectl),)
    node = (pod.get("spec") or {}).get("nodeName") if pod else None
    return Asked((node,) if node else (), (what,), chosen)


def every_node(kubectl: Kubectl) -> dict[str, Any]:
    """The names of all nodes that can run Linux pods."""
    nodes = {_name(node): node for node in kubectl.get("nodes")["items"]}
    fit = {name: node for name, node in nodes.items() if unfit(name, node) is None}
    if nodes and not fit:
        raise KtraceError("; ".join(filter(None, (unfit(n, nodes[n]) for n in list(nodes)[:3]))))
    return fit


def check(kubectl: Kubectl, name: str) -> None:
    """Raises a one-line error if the node is unfit. A user without the right to look at nodes
    learns it later."""
    try:
        node = kubectl.get("node", name)
    except Forbidden:
        return
    if node is None:
        raise KtraceError(f"node {name} is gone", "kubectl get nodes tells which there are")
    problem = unfit(name, node)
    if problem:
        raise KtraceError(problem)


def unfit(name: str, node: Mapping[str, Any]) -> str | None:
    """Why ktrace's pod cannot run on a node."""
    labels = node["metadata"].get("labels") or {}
    taints = [one.get("key", "") for one in node.get("spec", {}).get("taints") or []]
    status = node.get("status") or {}
    system = labels.get("kubernetes.io/os") or (status.get("nodeInfo") or {}).get("operatingSystem")
    if labels.get("eks.amazonaws.com/compute-type") == "fargate":
        return f"node {name} is Fargate: it takes no privileged pods, and its kernel is not shown"
    virtual = any(key.startswith("virtual-kubelet.io/") for key in taints)
    if virtual or labels.get("type") == "virtual-kubelet":
        return f"node {name} is virtual: its pods run elsewhere, on no kernel of its own"
    if system not in (None, "linux"):
        return f"node {name} runs {system}: ktrace is for Linux"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            since = condition.get("lastTransitionTime", "a time that is not known")
            message = condition.get("message") or condition.get("reason") or "nobody says why"
            return f"node {name} is not ready since {since}: {message}"
    return None


def _of_pods(kubectl: Kubectl, request: Request, pods: Sequence[str]) -> Asked:
    found = _listed(kubectl, request, pods)
    here = request.nodes or request.all_nodes
    if not found and not (request.wait and here):
        raise _no_such_pod(kubectl, request, pods)
    placed = [(pod.get("spec") or {}).get("nodeName") for pod in found]
    nodes = dict.fromkeys(node for node in placed if node)
    if found and not nodes and not here:
        raise KtraceError(_not_scheduled(found[0]))
    namespaces = tuple(dict.fromkeys(pod["metadata"]["namespace"] for pod in found))
    return Asked(
        tuple(nodes),
        tuple(_qualified(pod, namespaces) for pod in pods),
        tuple(n for n in request.namespaces if n != "*") or (() if pods else namespaces),
        to_come=request.wait or request.all_nodes or any(map(_is_to_come, found)),
    )


def _listed(kubectl: Kubectl, request: Request, pods: Sequence[str]) -> list[Any]:
    """The requested pods, as the API server returns them."""
    if len(pods) == 1 and not request.labels and _is_plain(pods[0]):
        before, _, name = pods[0].rpartition("/")
        namespaces = [before] if before else request.namespaces
        if len(namespaces) < 2 and all(map(_is_plain, namespaces)):
            one = kubectl.get("pod", name, *(f"--namespace={n}" for n in namespaces))
            return [one] if one else []
    scopes = {namespace for pod in pods if (namespace := _namespace(pod))}
    if scopes and not all(map(_namespace, pods)):
        raise UsageError("some of the pods have a namespace, and others have none", "NAMESPACE/POD")
    scopes = scopes or set(request.namespaces)
    if any(not _is_plain(scope) for scope in scopes) or len(scopes) > 1:
        where = ["--all-namespaces"]
    else:
        where = [f"--namespace={scope}" for scope in scopes]
    chosen = [f"--selector={','.join(request.labels)}"] if request.labels else []
    return [
        pod
        for pod in kubectl.get("pods", *where, *chosen)["items"]
        if _is_wanted(pod, pods, request.namespaces)
    ]


def _is_wanted(pod: Mapping[str, Any], pods: Sequence[str], namespaces: Sequence[str]) -> bool:
    """Whether ktrace on the node would select the pod. Ended pods have no processes any more."""
    from tracer.model.names import Pod
    from tracer.model.selection import pod_matches

    about = pod["metadata"]
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    if namespaces and not any(fnmatchcase(about["namespace"], glob) for glob in namespaces):
        return False
    known = Pod(about["uid"], about["namespace"], about["name"], about.get("labels") or {})
    return not pods or any(pod_matches(known, glob) for glob in pods)


def _qualified(pod: str, namespaces: Sequence[str]) -> str:
    """The pod's name with its namespace, if only one is possible."""
    if _namespace(pod) or len(namespaces) != 1 or _is_uid(pod):
        return pod
    return f"{namespaces[0]}/{pod}"


def _namespace(pod: str) -> str | None:
    """The prefix of a pod's name or of `deploy/web`."""
    from tracer.model.workloads import parse

    workload = parse(pod)
    if workload:
        return workload.namespace
    return pod.rpartition("/")[0] or None


def _is_plain(word: str) -> bool:
    """Whether it is a name, and no glob, workload or uid."""
    from tracer.model.workloads import parse

    return not (any(one in word for one in "*?[") or parse(word) or _is_uid(word))


def _is_uid(word: str) -> bool:
    return len(word) == 36 and word.count("-") == 4


def _is_id(word: str) -> bool:
    """Whether it is a uid, or may be the beginning of a container's id: neither has a namespace."""
    return _is_uid(word) or bool(re.fullmatch("[0-9a-f]{6,64}", word))


def _of_context(kubectl: Kubectl) -> str:
    """The namespace that kubectl takes where none is given."""
    try:
        told = kubectl.run(
            "config", "view", "--minify", "--output=jsonpath={.contexts[0].context.namespace}"
        )
    except Refused as refused:
        raise UsageError(
            f"which namespace? There is no context: {refused.words}",
            "NAMESPACE/POD or -n NAMESPACE; -A is every one",
        ) from refused
    return told.decode("utf-8", "backslashreplace").strip() or "default"


def _is_to_come(pod: Mapping[str, Any]) -> bool:
    """Of a pod whose init containers fail, the node knows the pod, and an agent their ends."""
    status = pod.get("status") or {}
    begun = any(
        one.get("containerID")
        for of in ("initContainerStatuses", "containerStatuses")
        for one in status.get(of) or []
    )
    return status.get("phase") == "Pending" and not begun


def _not_scheduled(pod: Mapping[str, Any]) -> str:
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("message"):
            return f"pod {name} is on no node yet: {condition['message']}"
    return f"pod {name} is on no node yet"


def _no_such_pod(kubectl: Kubectl, request: Request, pods: Sequence[str]) -> KtraceError:
    """The error names the nearest pods and the searched namespace."""
    import difflib

    what = " or ".join(map(repr, pods)) if pods else "with those labels" if request.labels else ""
    named = [n for n in map(_namespace, pods) if n] or request.namespaces
    where = f"in namespace {', '.join(named)}" if named else "in the context's namespace"
    near: list[str] = []
    if pods and all(map(_is_plain, named)):
        scope = [f"--namespace={named[0]}"] if named else []
        names: list[str] = []
        with suppress(Forbidden):  # to see one pod is a right of its own
            names = [_name(pod) for pod in kubectl.get("pods", *scope)["items"]]
        near = difflib.get_close_matches(pods[0].rpartition("/")[2], names, 3, 0.4)
    hint = f"; the nearest: {', '.join(near)}" if near else ""
    return NoSuchPod(
        f"no pod {what} {where}{hint}".replace("  ", " "),
        "-n NAMESPACE or -A looks elsewhere; one that is still to come: --wait with --node NAME",
    )


def bounded(asked: Asked) -> Asked:
    if len(asked.nodes) > MAX_NODES:
        raise UsageError(
            f"{len(asked.nodes)} nodes are more than {MAX_NODES} at once",
            "choose with -l, -n or --node",
        )
    return asked


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more


def _name(thing: Mapping[str, Any]) -> str:
    return str(thing["metadata"]["name"])
