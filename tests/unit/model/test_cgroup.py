# SPDX-License-Identifier: Apache-2.0
"""Cgroup paths as the runtimes of this world write them, and as an attacker would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.cgroup import CgroupIdentity, parse
from tracer.model.names import normalise_uid

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
UNDERSCORED = UID.replace("-", "_")
STATIC = "97000c9ddafe62a21b74dcc8fb9d742d"
OTHER = "ffffffff-ffff-4fff-8fff-ffffffffffff"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
NODE = "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22"
NESTED = "3ad85da3fccbfd88a3f7b0c1e9f1d8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1"

SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice"
CGROUPFS = f"/kubepods/burstable/pod{UID}"


def pod(
    qos: str, container: str | None = None, runtime: str | None = None, uid: str = UID
) -> CgroupIdentity:
    return CgroupIdentity(uid, container, runtime, qos)


def container(runtime: str | None, container_id: str = CID) -> CgroupIdentity:
    return CgroupIdentity(None, container_id, runtime, None)


NOBODY = CgroupIdentity(None, None, None, None)

LAYOUTS = {
    # The kubelet uses systemd, containerd does not.
    "driver mismatch": (
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice"
            f":cri-containerd:{CID}"
        ),
        pod("Burstable", CID, "containerd"),
    ),
    "driver mismatch, guaranteed, nothing above": (
        f"/kubepods-pod{UNDERSCORED}.slice:cri-containerd:{CID}",
        pod("Guaranteed", CID, "containerd"),
    ),
    "driver mismatch, below the container": (
        (
            f"/system.slice/containerd.service/kubepods-besteffort-pod{UNDERSCORED}.slice"
            f":cri-containerd:{CID}/docker/{NESTED}"
        ),
        pod("BestEffort", CID, "containerd"),
    ),
    "driver mismatch in kind": (
        (
            f"/system.slice/docker-{NODE}.scope/system.slice/containerd.service/"
            f"kubelet-kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{CID}"
        ),
        pod("Burstable", CID, "containerd"),
    ),
    "driver mismatch, CRI-O": (
        f"/system.slice/crio.service/kubepods-burstable-pod{UNDERSCORED}.slice:crio:{CID}",
        pod("Burstable", CID, "cri-o"),
    ),
    "driver mismatch, monitor": (
        f"/system.slice/crio.service/kubepods-burstable-pod{UNDERSCORED}.slice:crio-conmon:{CID}",
        pod("Burstable"),
    ),
    "kind, cgroupfs": (
        f"/docker/{NODE}/kubelet/kubepods/besteffort/pod{UID}/{CID}",
        pod("BestEffort", CID),
    ),
    "kind, systemd": (
        (
            f"/system.slice/docker-{NODE}.scope/kubelet.slice/kubelet-kubepods.slice/"
            f"kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/"
            f"cri-containerd-{CID}.scope"
        ),
        pod("Burstable", CID, "containerd"),
    ),
    "kind in podman": (
        (
            f"/machine.slice/libpod-{NODE}.scope/container/kubelet.slice/kubelet-kubepods.slice/"
            f"kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{CID}.scope"
        ),
        pod("Guaranteed", CID, "containerd"),
    ),
    "minikube with CRI-O in docker": (
        (
            f"/docker/{NODE}/kubepods.slice/kubepods-besteffort.slice/"
            f"kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{CID}.scope"
        ),
        pod("BestEffort", CID, "cri-o"),
    ),
    "k3d": (f"/docker/{NODE}/kubepods/burstable/pod{UID}/{CID}", pod("Burstable", CID)),
    "k3s below its own service": (
        f"/system.slice/k3s.service/kubepods/pod{UID}/{CID}",
        pod("Guaranteed", CID),
    ),
    "docker in docker in a pod, cgroupfs": (
        f"/kubepods/besteffort/pod{UID}/{CID}/docker/{NESTED}",
        pod("BestEffort", CID),
    ),
    "docker in docker in a pod, systemd": (
        f"{SYSTEMD}/cri-containerd-{CID}.scope/system.slice/docker-{NESTED}.scope",
        pod("Burstable", CID, "containerd"),
    ),
    "a whole node in a pod": (
        f"{SYSTEMD}/crio-{CID}.scope/kubepods/burstable/pod{OTHER}/{NESTED}",
        pod("Burstable", CID, "cri-o"),
    ),
    "static pod, systemd": (
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/"
            f"cri-containerd-{CID}.scope"
        ),
        pod("Burstable", CID, "containerd", STATIC),
    ),
    "static pod, cgroupfs": (f"/kubepods/pod{STATIC}/{CID}", pod("Guaranteed", CID, uid=STATIC)),
    "static pod with a uid of its own": (
        f"/kubepods/burstable/podetcd.node-1/{CID}/kubepods/pod{OTHER}/{NESTED}",
        pod("Burstable", CID, uid="etcd.node-1"),
    ),
    "CRI-O, systemd": (f"{SYSTEMD}/crio-{CID}.scope", pod("Burstable", CID, "cri-o")),
    "CRI-O, cgroup v2 payload": (
        f"{SYSTEMD}/crio-{CID}.scope/container",
        pod("Burstable", CID, "cri-o"),
    ),
    "CRI-O, cgroupfs": (f"{CGROUPFS}/crio-{CID}", pod("Burstable", CID, "cri-o")),
    "CRI-O's monitor, systemd": (f"{SYSTEMD}/crio-conmon-{CID}.scope", pod("Burstable")),
    "CRI-O's monitor, cgroupfs": (f"{CGROUPFS}/crio-conmon-{CID}", pod("Burstable")),
    "containerd, systemd": (
        f"{SYSTEMD}/cri-containerd-{CID}.scope",
        pod("Burstable", CID, "containerd"),
    ),
    "containerd, systemd, besteffort": (
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/"
            f"cri-containerd-{CID}.scope"
        ),
        pod("BestEffort", CID, "containerd"),
    ),
    "containerd, systemd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{CID}.scope",
        pod("Guaranteed", CID, "containerd"),
    ),
    "containerd, init.scope inside": (
        f"{SYSTEMD}/cri-containerd-{CID}.scope/init.scope",
        pod("Burstable", CID, "containerd"),
    ),
    "cgroupfs, guaranteed": (f"/kubepods/pod{UID}/{CID}", pod("Guaranteed", CID)),
    "cgroupfs, burstable": (f"{CGROUPFS}/{CID}", pod("Burstable", CID)),
    "cgroupfs, besteffort": (f"/kubepods/besteffort/pod{UID}/{CID}", pod("BestEffort", CID)),
    "cgroup root of another name, systemd": (
        (
            f"/custom.slice/custom-kubepods.slice/custom-kubepods-pod{UNDERSCORED}.slice/"
            f"docker-{CID}.scope"
        ),
        pod("Guaranteed", CID, "docker"),
    ),
    "dockershim, systemd": (f"{SYSTEMD}/docker-{CID}.scope", pod("Burstable", CID, "docker")),
    "the pod itself, systemd": (SYSTEMD, pod("Burstable")),
    "the pod itself, cgroupfs": (CGROUPFS, pod("Burstable")),
    "the pod itself, trailing slash": (f"{CGROUPFS}/", pod("Burstable")),
    "mounted path, v1": (
        f"/sys/fs/cgroup/memory/kubepods/burstable/pod{UID}/{CID}",
        pod("Burstable", CID),
    ),
    "no leading slash": (f"kubepods/burstable/pod{UID}/{CID}", pod("Burstable", CID)),
    "container removed, task still there": (f"{CGROUPFS}/{CID} (deleted)", pod("Burstable", CID)),
    "pod removed": (f"{CGROUPFS} (deleted)", pod("Burstable")),
    # Directly below the pod, but nothing a runtime makes.
    "no id": (f"{CGROUPFS}/leaf", pod("Burstable")),
    "id too short": (f"{CGROUPFS}/{CID[:-1]}", pod("Burstable")),
    "id in upper case": (f"{CGROUPFS}/{CID.upper()}", pod("Burstable")),
    "container not directly below": (f"{CGROUPFS}/leaf/{CID}", pod("Burstable")),
    "newline behind the id": (f"{CGROUPFS}/{CID}\n", pod("Burstable")),
    # Containers of Kubernetes whose sandbox asked for another cgroup parent.
    "CRI container in no pod's cgroup": (
        f"/system.slice/cri-containerd-{CID}.scope",
        container("containerd"),
    ),
    "CRI container in no pod's cgroup poses": (
        f"/system.slice/cri-containerd-{CID}.scope/kubepods/pod{OTHER}/{NESTED}",
        container("containerd"),
    ),
    "CRI-O container in no pod's cgroup poses": (
        f"/machine.slice/crio-{CID}.scope/kubepods-pod{OTHER}.slice/crio-{NESTED}.scope",
        container("cri-o"),
    ),
    "containerd's default parent": (f"/k8s.io/{CID}", container("containerd")),
    "containerd's default parent poses": (
        f"/k8s.io/{CID}/kubepods/pod{OTHER}",
        container("containerd"),
    ),
    "mismatch in no pod's slice": (
        f"/system.slice/containerd.service/system.slice:cri-containerd:{CID}",
        container("containerd"),
    ),
    # Without Kubernetes.
    "docker, cgroupfs": (f"/docker/{CID}", container("docker")),
    "docker, systemd": (f"/system.slice/docker-{CID}.scope", container("docker")),
    "docker, driver mismatch": (
        f"/system.slice/docker.service/system.slice:docker:{CID}",
        container("docker"),
    ),
    "docker in docker": (f"/docker/{CID}/docker/{NESTED}", container("docker")),
    "docker in podman": (
        f"/machine.slice/libpod-{CID}.scope/system.slice/docker-{NESTED}.scope",
        container("podman"),
    ),
    "podman, systemd": (f"/machine.slice/libpod-{CID}.scope", container("podman")),
    "podman, v2 payload": (f"/machine.slice/libpod-{CID}.scope/container", container("podman")),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{CID}", container("podman")),
    "podman, rootless": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{CID}.scope",
        container("podman"),
    ),
    "podman's own pod": (
        f"/machine.slice/machine-libpod_pod_{NODE}.slice/libpod-{CID}.scope",
        container("podman"),
    ),
    "podman's own pod, cgroupfs": (
        f"/libpod_parent/{NODE}/libpod-{CID}",
        container("podman"),
    ),
    "podman, its own service's cgroup": (
        f"/system.slice/web.service/libpod-payload-{CID}",
        container("podman"),
    ),
    "podman, another parent": (f"/custom/libpod-{CID}", container("podman")),
    "docker, another parent": (f"/custom/{CID}", container(None)),
    "docker, another slice": (f"/custom.slice/docker-{CID}.scope", container("docker")),
    "nerdctl": (f"/default/{CID}", container(None)),
    "nerdctl, systemd": (f"/system.slice/nerdctl-{CID}.scope", container("containerd")),
    "nerdctl, rootless": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-{CID}.scope",
        container("containerd"),
    ),
    "ECS": (f"/ecs/{STATIC}/{CID}", container(None)),
    "ECS on Fargate": (
        f"/ecs/{STATIC}/{STATIC}-1234567890",
        container(None, f"{STATIC}-1234567890"),
    ),
    "BuildKit": (f"/docker/buildkit/{'k3' * 12}z", container(None, f"{'k3' * 12}z")),
    "a CI runner's": (f"/actions_job/{CID}", container(None)),
    "docker in a container of another parent": (f"/custom/{CID}/docker/{NESTED}", container(None)),
    "podman's monitor": (f"/machine.slice/libpod-conmon-{CID}.scope", NOBODY),
    "a monitor below any parent": (f"/custom/conmon-{CID}", NOBODY),
    # Nobody's.
    "root": ("/", NOBODY),
    "nothing": ("", NOBODY),
    "a service": ("/system.slice/sshd.service", NOBODY),
    "containerd itself": ("/system.slice/containerd.service", NOBODY),
    "kubepods itself": ("/kubepods.slice/kubepods-burstable.slice", NOBODY),
    "kubepods itself, cgroupfs": ("/kubepods/besteffort", NOBODY),
    "a slice that only ends like kubepods": (f"/mykubepods-pod{UNDERSCORED}.slice", NOBODY),
    "no slice": (f"/kubepods-pod{UNDERSCORED}", NOBODY),
    "an id in upper case alone": (f"/custom/{CID.upper()}", NOBODY),
    "more than an id": (f"/custom/{CID}0", NOBODY),
    "podman's own pod itself, cgroupfs": (f"/libpod_parent/{NODE}", NOBODY),
    "a task of ECS itself": (f"/ecs/{STATIC}", NOBODY),
    # A container for certain, in a pod that is not believed.
    "a pod in an implausible place": (f"/user.slice/pod{UID}/{CID}", container(None)),
    "a pod below a lone QoS class": (f"/burstable/pod{UID}/{CID}", container(None)),
    "a pod not directly below kubepods": (f"/kubepods/x/pod{UID}/{CID}", container(None)),
    "a slice that does not say kubepods": (
        f"/user-pod{UNDERSCORED}.slice/{CID}",
        container(None),
    ),
    "a directory that only ends like kubepods": (f"/my_kubepods/pod{UID}/{CID}", container(None)),
}


@pytest.mark.parametrize("path, expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout(path: str, expected: CgroupIdentity) -> None:
    assert parse(path) == expected


POD_PATHS = [SYSTEMD, CGROUPFS] + [path for path, who in LAYOUTS.values() if who.pod_uid]
CONTAINER_PATHS = [path for path, who in LAYOUTS.values() if who.container_id]

# Words that an attacker would use, mixed with anything else.
components = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "kubepods",
            "burstable",
            "besteffort",
            f"pod{OTHER}",
            f"kubepods-pod{OTHER.replace('-', '_')}.slice",
            f"kubepods-burstable-pod{OTHER.replace('-', '_')}.slice:cri-containerd:{NESTED}",
            NESTED,
            f"cri-containerd-{NESTED}.scope",
            f"crio-{NESTED}",
            f"docker-{NESTED}.scope",
            "docker",
            "k8s.io",
            "..",
            " (deleted)",
        ]
    ),
)
hostile_suffixes = st.lists(components, max_size=6).map(lambda parts: "/" + "/".join(parts))


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    assert isinstance(parse(text), CgroupIdentity)


@given(st.lists(components).map("/".join))
def test_any_mixture_has_an_answer(text: str) -> None:
    assert isinstance(parse(text), CgroupIdentity)


@given(st.sampled_from(POD_PATHS), hostile_suffixes)
def test_nobody_below_a_pod_poses_as_another(path: str, suffix: str) -> None:
    path = path.removesuffix(" (deleted)").rstrip("/")
    below = parse(path + suffix)
    assert (below.pod_uid, below.qos) == (parse(path).pod_uid, parse(path).qos)


@given(st.sampled_from(CONTAINER_PATHS), hostile_suffixes)
def test_nobody_below_a_kubernetes_container_poses_as_another(path: str, suffix: str) -> None:
    path = path.removesuffix(" (deleted)")
    # Below a plain docker, podman or nerdctl container a real node may live (kind).
    plain = parse(path).runtime not in ("containerd", "cri-o") or "nerdctl" in path
    if parse(path).pod_uid or not plain:
        assert parse(path + suffix) == parse(path)


@given(st.uuids(), st.sampled_from(["", "-burstable", "-besteffort"]), st.sampled_from("-_"))
def test_every_driver_gives_the_same_uid(uid: object, qos: str, dash: str) -> None:
    written = str(uid).replace("-", dash)
    middle = f"{qos[1:]}/" if qos else ""
    assert parse(f"/kubepods/{middle}pod{written}").pod_uid == str(uid)
    assert parse(f"/kubepods{qos}-pod{written}.slice").pod_uid == str(uid)


@given(st.uuids())
def test_normalising_undoes_underscores_and_repeats_without_change(uid: object) -> None:
    assert normalise_uid(str(uid).replace("-", "_")) == str(uid)
    assert normalise_uid(normalise_uid(str(uid))) == str(uid)
