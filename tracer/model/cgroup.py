# SPDX-License-Identifier: Apache-2.0
"""Reads the pod, the container and its runtime from a cgroup path.

The outermost pod component decides. The runtime or the pod's own processes make everything below
it. Processes can nest any names they like, and must not be able to pose as another pod. For the
same reason the container is only looked for directly below the pod.

A pod component is only believed where a kubelet puts one:

    cgroupfs driver     …/kubepods[/burstable|/besteffort]/pod<uid>/<container>
    systemd driver      …/[<prefix>-]kubepods[-burstable|-besteffort]-pod<uid>.slice/<container>
    drivers disagree    …/[<prefix>-]kubepods[-…]-pod<uid>.slice:<runtime>:<container id>

What stands before it does not matter: kind, k3d, minikube and `--cgroup-root` all put a node's
tree below something else.

Without Kubernetes any component with an id as its name is a container, wherever its parent lies:
`--cgroup-parent`, nerdctl's namespaces, ECS's tasks and CI runners all choose for themselves. A
monitor beside a container (conmon) is not in it.
"""

import re
from dataclasses import dataclass

from tracer.model.names import normalise_uid


@dataclass(frozen=True, slots=True)
class CgroupIdentity:
    """The parts of a path; None for each part that it lacks."""

    pod_uid: str | None = None
    container_id: str | None = None
    runtime: str | None = None
    qos: str | None = None


def parse(path: str) -> CgroupIdentity:
    """Reads one path as /proc/PID/cgroup or the kernel gives it. Any string has an answer."""
    # The kernel appends this to the path of a removed cgroup that still holds a task.
    path = path.removesuffix(" (deleted)")
    found = _KUBERNETES.search(path)
    if found is None:
        plain = _PLAIN.search(path)
        if plain is None:
            return _NOBODY
        return CgroupIdentity(
            container_id=plain["id"] or plain["task_id"] or plain["build_id"],
            runtime=_RUNTIMES.get(plain["prefix"] or plain["parent"] or ""),
        )
    uid = found["uid"] or found["slice_uid"]
    if uid is None:
        runtime = _RUNTIMES[found["loose_prefix"] or "cri-containerd"]
        return CgroupIdentity(container_id=found["loose_id"], runtime=runtime)
    if found["mismatch"] is not None:
        below = _CONTAINER.fullmatch(found["mismatch"].replace(":", "-"))
    else:
        below = _CONTAINER.fullmatch(found["below"] or "")
    return CgroupIdentity(
        pod_uid=normalise_uid(uid),
        container_id=below["id"] if below else None,
        runtime=_RUNTIMES.get(below["prefix"]) if below else None,
        qos=_QOS[found["qos"] or found["slice_qos"]],
    )


_NOBODY = CgroupIdentity()

_QOS = {None: "Guaranteed", "burstable": "Burstable", "besteffort": "BestEffort"}

_RUNTIMES = {
    "cri-containerd": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
    "nerdctl": "containerd",
}

_ID = r"[0-9a-f]{64}"

# The component directly below a pod. A monitor of a container (crio-conmon-<id>) does not fit
# the pattern: it is the pod's, but runs outside of every container.
_CONTAINER = re.compile(
    rf"(?:(?P<prefix>cri-containerd|crio|docker|libpod)-)?(?P<id>{_ID})(?:\.scope)?"
)

# search() finds the leftmost match, which is the outermost component.
#
# A uid is any string: mostly a UUID, or 32 hex digits for a static pod, but a static pod's manifest
# may choose any other. To accept only the usual forms would be dangerous: below a pod with an
# unusual uid, the next pod component would count as the outermost.
#
# The third form is a container of Kubernetes outside of every pod's cgroup: its sandbox asked for
# another parent. Its runtime knows its pod. Cgroups nested below it do not count.
_KUBERNETES = re.compile(
    rf"""
    (?:^|/)
    (?:
        (?:
            kubepods / (?:(?P<qos>burstable|besteffort)/)? pod(?P<uid>[^/]+)
          |
            (?:[^/:]*?-)? kubepods (?:-(?P<slice_qos>burstable|besteffort))?
            -pod(?P<slice_uid>[^/:]+)\.slice
            (?: : (?P<mismatch>[^/]*) )?
        )
        (?: / (?P<below>[^/]*) )?
      |
        (?:
            (?:[^/:]*\.slice:)? (?P<loose_prefix>cri-containerd|crio)[-:]
          | k8s\.io/
        )
        (?P<loose_id>{_ID}) (?:\.scope)?
    )
    (?=/|\Z)
    """,
    re.VERBOSE,
)

# Without Kubernetes. Podman's own pods are slices around these scopes, or an id below
# libpod_parent, which is no container; with --cgroups=split it says libpod-payload. A task of ECS
# on Fargate has an id that is no hash, and BuildKit's are of 25 letters and digits.
_PLAIN = re.compile(
    rf"""
    (?:^|/)
    (?:
        (?:(?P<parent>docker)/)?
        (?:[^/:]*\.slice:)? (?:(?P<prefix>(?!conmon)[a-z]+)(?:-payload)?[-:])?
        (?<!libpod_parent/) (?P<id>{_ID}) (?:\.scope)?
      | ecs/[0-9a-f]{{32}}/(?P<task_id>[0-9a-f]{{32}}-[0-9]{{1,20}})
      | buildkit/(?P<build_id>[0-9a-z]{{25}})
    )
    (?=/|\Z)
    """,
    re.VERBOSE,
)
