# SPDX-License-Identifier: Apache-2.0
"""The owner of a cgroup's path in a text, in words.

`tracer.model.cgroup` reads paths from the kernel. A text may have more around them: the mount point
and a file's name, a colon of the sentence, dots of a cgroup namespace. It may also come from a
runtime without Kubernetes; then anything that looks like a container's id is one.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from tracer.decode.kind import Answer
from tracer.model.cgroup import CgroupIdentity, parse

MAX_PATH = 4096


def identify(text: str) -> CgroupIdentity:
    """Any text has an answer."""
    path = trimmed(text)
    found = parse(path)
    if found.pod_uid is not None:
        return replace(found, pod_uid=_uid(found.pod_uid), **_container_below(found, path))
    container = _LOOSE.search(path)
    runtime = _RUNTIMES.get(container["prefix"] or container["folder"] or "") if container else None
    # Seen from the cgroup namespace of another pod, the common ancestors are dots.
    pod = _RELATIVE_POD.search(path) if _RELATIVE.match(path) else None
    qos = _QOS.search(path)
    return CgroupIdentity(
        pod_uid=pod["uid"].replace("_", "-") if pod else None,
        container_id=found.container_id or (container["id"] if container else None),
        runtime=runtime or found.runtime,
        qos=_QOS_NAMES[qos[1]] if pod and qos else None,
    )


def trimmed(text: str) -> str:
    """The path alone, without a file in the cgroup and the sentence around it."""
    path = text[:MAX_PATH].strip().rstrip(":;,.")
    path = _FILE.sub("", path)
    return path.rstrip("/") or "/"


def in_words(path: str) -> str:
    """The owner in words: `container a1b2c3d4a1b2 of pod …`, or another cgroup."""
    identity = identify(path)
    if identity.container_id:
        pod = f" of pod {identity.pod_uid}" if identity.pod_uid else ""
        return f"container {identity.container_id[:12]}{pod}"
    if identity.pod_uid:
        return f"pod {identity.pod_uid}"
    path = trimmed(path)
    together = _TOGETHER.search(path)
    if together:
        qos = _QOS_NAMES.get(together["qos"] or together["slice_qos"])
        if qos:
            return f"all {qos} pods together (cgroup {path})"
        return f"all pods together, which is what the node has allocatable (cgroup {path})"
    return "the root cgroup" if path == "/" else f"cgroup {path}"


def facts(identity: CgroupIdentity) -> Answer:
    known = {
        "pod": identity.pod_uid,
        "container": identity.container_id,
        "runtime": identity.runtime,
        "QoS class": identity.qos,
    }
    lines = [f"  {name}: {value}" for name, value in known.items() if value is not None]
    return lines + names(identity.pod_uid)


def names(pod_uid: str | None) -> Answer:
    """The command that shows a pod's name. A uid can be any string, because a static pod's manifest
    chooses it."""
    if pod_uid is None:
        return []
    shown, note = "UID:.metadata.uid", ""
    if re.fullmatch("[0-9a-f]{32}", pod_uid):
        # pkg/kubelet/config/common.go: a hash of the manifest, kept as this annotation
        shown = r"'HASH:.metadata.annotations.kubernetes\.io/config\.hash'"
        note = "a static pod; the API knows this uid as the annotation kubernetes.io/config.hash. "
    return [
        f"{note}its name: kubectl get pods -A -o custom-columns="
        f"NS:.metadata.namespace,NAME:.metadata.name,{shown} | grep -F -e {shlex.quote(pod_uid)}"
    ]


_FILE = re.compile(
    r"/(?:cgroup|memory|cpu|cpuset|cpuacct|pids|io|blkio|hugetlb|freezer|tasks|notify_on_release)"
    r"(?:\.[\w.]{1,64})?\Z"
)
_UUID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
_USUAL_UID = re.compile(rf"(?:{_UUID}|[0-9a-f]{{32}})(?=[^\w.-])")
_RELATIVE = re.compile(r"/?\.\./|pod")
_RELATIVE_POD = re.compile(rf"(?:^|[/-])pod(?P<uid>{_UUID}|[0-9a-f]{{32}})(?![0-9a-zA-Z])")
_QOS = re.compile(r"(?:^|[/-])(burstable|besteffort)(?=[/-])")
_QOS_NAMES = {"burstable": "Burstable", "besteffort": "BestEffort"}
_TOGETHER = re.compile(
    r"(?:^|/)(?:[\w.@:]{1,64}-)?kubepods"
    r"(?:\.slice)?(?:/(?:(?P<qos>burstable|besteffort)|"
    r"(?:[\w.@:]{1,64}-)?kubepods-(?P<slice_qos>burstable|besteffort)\.slice))?\Z"
)

# A container of any runtime: the id behind the runtime's name, or below its folder.
_LOOSE = re.compile(
    r"(?:^|[/:])(?:(?P<folder>ecs(?=/)|kata_overhead|default|garden|actions_job|buildkit|docker)/)?"
    r"(?:[0-9a-f]{32}/)?(?:(?P<prefix>[a-z][a-z-]{1,30})[-_:])?"
    r"(?P<id>[0-9a-f]{64}|[0-9a-f]{32}-\d{4,12})(?:\.scope)?(?=[/\s:]|\Z)"
)
_RUNTIMES = {
    "nerdctl": "nerdctl (containerd)",
    "default": "containerd",
    "ecs": "ECS",
    "kata": "kata",
    "kata_overhead": "kata",
    "docker": "docker",
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "crio": "cri-o",
    "crio-conmon": "cri-o",
    "libpod": "podman",
    "libpod-conmon": "podman",
    "podman": "podman",
    "buildah": "buildah",
    "buildkit": "buildkit",
    "garden": "garden",
    "actions_job": "docker",
    "isulad": "iSulad",
}


def _uid(uid: str) -> str:
    """A usual uid is cut at its known length; any other is the whole component."""
    found = _USUAL_UID.match(uid)
    return found[0] if found else uid


def _container_below(found: CgroupIdentity, path: str) -> dict[str, str]:
    """A container directly below the pod whose name only one runtime uses (kata_<id>)."""
    if found.container_id is not None:
        return {}
    below = re.search(r"pod[^/]{8,}/(?P<prefix>kata|nerdctl|isulad)[-_](?P<id>[0-9a-f]{64})", path)
    if not below:
        return {}
    return {"container_id": below["id"], "runtime": _RUNTIMES[below["prefix"]]}
