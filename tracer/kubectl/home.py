# SPDX-License-Identifier: Apache-2.0
"""ktrace's pod on a node: the DaemonSet's, or a temporary one.

A temporary pod is deleted on every way out. A pod that could not be deleted ends by itself: soon
after its holder is gone, and at its deadline at the latest. It carries its maker's name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote

from tracer.kubectl.arguments import Request
from tracer.kubectl.client import Forbidden, Kubectl, Refused, refusal
from tracer.model.errors import KtraceError

NAMESPACE = "ktrace"  # deploy/kubernetes
AGENT = "app.kubernetes.io/name=ktrace"
MADE = "app.kubernetes.io/managed-by"
BY = "kubectl-ktrace"
OWNER, SESSION = "ktrace-owner", "ktrace-session"
CONTAINER = "ktrace"
IMAGE = "localhost/ktrace"  # what `make image` makes

# How long a pod lives if nothing deletes it.
DEADLINE_SECONDS = 8 * 3600
# How long to wait until it runs, and after which time to look up the kubelet's events.
START_SECONDS = 120.0
LOOK_SECONDS = 4.0
CREATE_SECONDS = 10.0
DELETE_SECONDS = 15.0
# The largest amount of data that a watch may send about one pod.
MAX_WATCHED = 4 << 20
# How many of the DaemonSet's pods are asked for at once; with more, each node's own is.
MAX_AHEAD = 64

# Reasons for which waiting is useless.
_HOPELESS = frozenset(
    (
        *(
            "ErrImageNeverPull",
            "InvalidImageName",
            "ImagePullBackOff",
            "CreateContainerConfigError",
        ),
        *("CreateContainerError", "RunContainerError", "CrashLoopBackOff"),
    )
)
_USUAL = frozenset(("ContainerCreating", "PodInitializing"))

Say = Callable[[str], None]


@dataclass(frozen=True)
class Home:
    """A pod in which ktrace can run."""

    node: str
    namespace: str
    pod: str
    made: bool


class Agents(threading.Thread):
    """Asks for the DaemonSet's pods while it is not yet known which nodes are meant. In a small
    cluster one answer has all of them."""

    def __init__(self, kubectl: Kubectl, request: Request) -> None:
        super().__init__(daemon=True)
        self._kubectl = kubectl
        self._namespace = request.home or NAMESPACE
        self._found: dict[str, Home] | None = None
        self.start()

    def run(self) -> None:
        # what is wrong is said by who asks for one node
        with suppress(KtraceError, AttributeError, LookupError, TypeError):
            self._found = self._ask()

    def all(self) -> dict[str, Home] | None:
        """By node; None if there are more, or if that cannot be told."""
        self.join()
        return self._found

    def _ask(self) -> dict[str, Home] | None:
        where = f"/api/v1/namespaces/{quote(self._namespace, safe='')}/pods"
        query = f"labelSelector={quote(AGENT, safe='')}&limit={MAX_AHEAD}"
        answer = self._kubectl.ask("get", f"--raw={where}?{query}")
        if answer["metadata"].get("continue"):
            return None
        return {home.node: home for home in _agents_of(answer["items"])}


class Homes:
    """Finds or makes pods, and deletes those it made. Several threads may ask at once. `lifetime`
    is how long the request may take, if known; `ahead` was asked before the nodes were known."""

    def __init__(
        self,
        kubectl: Kubectl,
        request: Request,
        say: Say,
        lifetime: float | None = None,
        ahead: Agents | None = None,
    ) -> None:
        self._ahead = ahead
        self._kubectl = kubectl
        self._request = request
        self._say = say
        self._lifetime = lifetime
        self._session = os.urandom(4).hex()
        self._changed = threading.Condition()
        self._under_way = 0
        self._made: dict[str, str | None] = {}
        self._closed = False

    def leave(self, home: Home) -> None:
        """Deletes a pod now. A failed deletion is retried at the end."""
        if home.made:
            process = self._delete([home.pod], home.namespace)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=DELETE_SECONDS)
            if process.returncode == 0:
                self._made.pop(home.pod, None)

    def close(self) -> list[tuple[subprocess.Popen[bytes], str]]:
        """Starts deleting the pods that were made; returns the processes and descriptions. The
        deletions continue if this process ends."""
        with self._changed:
            self._closed = True
            # pending creations may still succeed: their outcome is known only then
            self._changed.wait_for(lambda: not self._under_way, CREATE_SECONDS)
        self._kubectl.abandon()
        by_namespace: dict[str | None, list[str]] = {}
        for name, namespace in self._made.items():
            by_namespace.setdefault(namespace, []).append(name)
        return [
            (self._delete(names, namespace), f"pod {', '.join(names)}")
            for namespace, names in by_namespace.items()
        ]

    def _delete(self, names: list[str], namespace: str | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._kubectl.command(
                *("delete", "pod", *names, *_in(namespace)),
                *("--now", "--wait=false", "--ignore-not-found"),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def known(self, node: str) -> Home | None:
        """The DaemonSet's pod on the node, if that needs no further question."""
        every = self._ahead.all() if self._ahead else None
        return every.get(node) if every else None

    def agent(self, node: str) -> Home | None:
        """The DaemonSet's pod on the node. A user without the right to look there may still make a
        pod elsewhere."""
        if self._request.image or (self._ahead and self._ahead.all() is not None):
            return self.known(node)
        try:
            found = agents(
                self._kubectl, self._request.home, f"--field-selector=spec.nodeName={node}"
            )
        except Forbidden:
            return None
        return next(iter(found), None)

    def make(self, node: str) -> Home:
        name = f"kubectl-ktrace-{self._session}-{os.urandom(3).hex()}"
        namespace: str | None = self._request.home or NAMESPACE
        manifest = self._manifest(name, node)
        try:
            made = self._create(manifest, namespace)
        except Refused as refused:
            if not refused.no_namespace or self._request.home:
                raise self._explained(refused, namespace) from refused
            namespace = None  # that namespace does not exist: use the context's
            try:
                made = self._create(manifest, namespace)
            except Refused as again:
                raise self._explained(again, namespace) from again
        home = Home(node, made["metadata"]["namespace"], name, made=True)
        self._await(home)
        return home

    def _create(self, manifest: Mapping[str, Any], namespace: str | None) -> Any:
        """Records the pod before creating it, so that it is deleted whatever happens."""
        with self._changed:
            if self._closed:
                raise KtraceError("ended before the pod was made")
            self._made[manifest["metadata"]["name"]] = namespace
            self._under_way += 1
        try:
            return self._kubectl.ask(
                # unchecked: to check it here, kubectl would fetch the description of the whole API
                *("create", "--filename=-", *_in(namespace), "--validate=false", "--output=json"),
                given=manifest,
            )
        except Refused as refused:
            if refused.decided:
                del self._made[manifest["metadata"]["name"]]
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _explained(self, refused: Refused, namespace: str | None) -> KtraceError:
        """The error with a remedy. For a missing right it names all missing rights at once."""
        if isinstance(refused, Forbidden):
            where = refused.lacks[2] or namespace
            lacking = [
                f"{verb} {resource}"
                for verb, resource in NEEDED
                if self._kubectl.may(verb, resource, where) is False
            ]
            told = ", ".join(lacking) or f"{refused.lacks[0]} {refused.lacks[1]}"
            error = Forbidden(refused.words, refused.lacks)
            error.message = f"no right in namespace {where} to: {told}"
            error.remedy = (
                f"kubectl auth can-i {refused.lacks[0]} {refused.lacks[1]} -n {where};"
                " --ktrace-namespace NAME makes the pod elsewhere; where ktrace's DaemonSet runs,"
                " list pods and create pods/exec are enough"
            )
            return error
        if "exceeded quota" in refused.words:
            refused.remedy = "--ktrace-namespace NAME makes the pod where there is room"
        elif re.search("PodSecurity|pod security policy|privileged", refused.words):
            refused.remedy = (
                "--ktrace-namespace NAME, of one that takes privileged pods:"
                " kubectl label namespace NAME pod-security.kubernetes.io/enforce=privileged"
            )
        return refused

    def _manifest(self, name: str, node: str) -> dict[str, Any]:
        """The pod is bound to its node without the scheduler, because the node under examination
        may be cordoned, tainted or full."""
        paths = {"cgroup": "/sys/fs/cgroup", "run": "/run", "logs": "/var/log"}
        container: dict[str, Any] = {
            "name": CONTAINER,
            "image": self._request.image or f"{IMAGE}:{version()}",
            "imagePullPolicy": "IfNotPresent",
            "command": ["ktrace", "leash"],
            "env": [
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
            ],
            # needed for the kernel log and, under SELinux, for the runtime's socket
            "securityContext": {"privileged": True, "readOnlyRootFilesystem": True},
            "resources": {"requests": {"cpu": "0", "memory": "0"}},
            "volumeMounts": [
                {"name": one, "mountPath": path, "readOnly": True} for one, path in paths.items()
            ],
        }
        spec: dict[str, Any] = {
            "nodeName": node,
            "hostPID": True,
            "hostNetwork": True,  # otherwise it would wait for an address
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "activeDeadlineSeconds": self._deadline(),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": one, "hostPath": {"path": path}} for one, path in paths.items()],
        }
        if self._request.pull_secret:
            spec["imagePullSecrets"] = [{"name": self._request.pull_secret}]
        labels = {
            "app.kubernetes.io/name": BY,  # the DaemonSet would adopt pods with its own name
            MADE: BY,
            OWNER: label(owner()),
            SESSION: self._session,
        }
        about = {"name": name, "labels": labels, "annotations": {OWNER: owner()}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}

    def _deadline(self) -> int:
        if self._lifetime is None:
            return DEADLINE_SECONDS
        return int(self._lifetime + START_SECONDS + 60)

    def _await(self, home: Home) -> None:
        """Waits until it runs. Reports each reason for a delay once."""
        began = time.monotonic()
        looked, told = False, ""
        for pod in self._watched(home):
            waited = time.monotonic() - began
            why, hopeless = waiting(pod) if pod else (None, False)
            if pod and _is_running(pod):
                return
            where = f"pod {home.namespace}/{home.pod} on node {home.node}"
            if hopeless or waited > START_SECONDS:
                raise KtraceError(
                    f"{where} does not start: {why or self._last_word(home) or 'nobody says why'}",
                    _remedy(why or ""),
                )
            if not why and waited > LOOK_SECONDS and not looked:
                looked, why = True, self._last_word(home)
            if why and why != told:
                told = why
                self._say(f"waiting for {where}: {why}")

    def _watched(self, home: Home) -> Iterator[Any]:
        """Yields the pod whenever it changes, and None each second without a change."""
        with self._kubectl.running(
            *("get", "pod", home.pod, f"--namespace={home.namespace}"),
            *("--watch", "--output=json"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout and process.stderr
            for text in _pieces(process.stdout):
                if self._closed:
                    raise KtraceError("ended before the pod ran")
                yield json.loads(text) if text else None
            process.wait(DELETE_SECONDS)
            raise refusal("get", process.stderr.read(4096))

    def _last_word(self, home: Home) -> str | None:
        """The kubelet's last event about the pod."""
        with suppress(KtraceError):
            events = self._kubectl.get(
                "events",
                f"--namespace={home.namespace}",
                f"--field-selector=involvedObject.name={home.pod}",
            )["items"]
            said = [one for one in events if one.get("message") and _is_telling(one)]
            said.sort(key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
            if said:
                return f"{said[-1].get('reason', '')}: {said[-1]['message']}"
        return None


# The rights for making a pod, in the order of their use.
NEEDED = (
    ("create", "pods"),
    ("get", "pods"),
    ("list", "pods"),
    ("watch", "pods"),
    ("create", "pods/exec"),
    ("delete", "pods"),
)


def agents(kubectl: Kubectl, namespace: str | None, *chosen: str) -> list[Home]:
    """The DaemonSet's pods that run."""
    where = f"--namespace={namespace or NAMESPACE}"
    return _agents_of(kubectl.get("pods", where, f"--selector={AGENT}", *chosen)["items"])


def _agents_of(pods: Iterable[Mapping[str, Any]]) -> list[Home]:
    return [
        Home(pod["spec"]["nodeName"], about["namespace"], about["name"], made=False)
        for pod in pods
        if _is_running(pod)
        and not (about := pod["metadata"]).get("deletionTimestamp")
        and any(one.get("name") == CONTAINER for one in pod["spec"]["containers"])
    ]


def waiting(pod: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Why a pod does not run, if known, and whether waiting is useless."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded"):
        ended = [
            f"{state.get('reason', 'ended')} with exit code {state.get('exitCode')}"
            for one in status.get("containerStatuses") or []
            if (state := (one.get("state") or {}).get("terminated"))
        ]
        said = status.get("message") or "; ".join(ended) or status["phase"]
        return f"{status['reason']}: {said}" if status.get("reason") else said, True
    for one in status.get("containerStatuses") or []:
        state = (one.get("state") or {}).get("waiting")
        if state and state.get("reason") and state["reason"] not in _USUAL:
            reason = str(state["reason"])
            message = state.get("message")
            return f"{reason}: {message}" if message else reason, reason in _HOPELESS
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason")), False
    return None, False


def leftovers(kubectl: Kubectl, home: str | None) -> list[Mapping[str, Any]]:
    """Pods that were made and not deleted, in all accessible namespaces."""
    try:
        found = kubectl.get("pods", "--all-namespaces", f"--selector={MADE}={BY}")["items"]
    except Forbidden:
        where = f"--namespace={home or NAMESPACE}"
        found = kubectl.get("pods", where, f"--selector={MADE}={BY}")["items"]
    return [one for one in found if not one["metadata"].get("deletionTimestamp")]


def owner() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def label(text: str) -> str:
    """The text as a valid label value."""
    return re.sub(r"[^\w.-]|@", "_", text, flags=re.ASCII)[:63].strip("_.-") or "unknown"


def version() -> str:
    from importlib.metadata import version as installed

    return installed("ktrace")


def _in(namespace: str | None) -> list[str]:
    return [f"--namespace={namespace}"] if namespace else []


def _is_running(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any("running" in (one.get("state") or {}) for one in containers)


def _is_telling(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "Warning" or event.get("reason") == "Pulling"


def _remedy(why: str) -> str | None:
    if re.search("(?i)image|pull", why):
        return (
            "--image NAME@sha256:… names one that the node can pull (--image-pull-secret NAME), or"
            " load it there: ctr -n k8s.io images import ktrace-*.oci.tar"
        )
    return None


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields consecutive JSON objects, and nothing once a second. Each object is decoded as soon as
    it is complete, because nothing else marks its end."""
    import select

    kept = b""
    decoder = json.JSONDecoder()
    while True:
        readable, _, _ = select.select([stream], [], [], 1.0)
        if not readable:
            yield b""
            continue
        some = stream.read1(1 << 16)  # type: ignore[attr-defined]
        if not some:
            return
        kept += some
        if len(kept) > MAX_WATCHED:
            raise KtraceError(f"kubectl get told more than {MAX_WATCHED >> 20} MiB of one pod")
        text = kept.decode("utf-8", "replace").lstrip()
        while text:
            try:
                _, end = decoder.raw_decode(text)
            except ValueError:
                break
            yield text[:end].encode()
            text = text[end:].lstrip()
        kept = text.encode()
