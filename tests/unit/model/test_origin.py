# SPDX-License-Identifier: Apache-2.0
"""Where a sender stands, seen from its target."""

from __future__ import annotations

import pytest

from tracer.model.cgroup import parse
from tracer.model.event import Place, Process
from tracer.model.names import Container, Pod
from tracer.model.origin import (
    is_kubelet,
    is_runtime,
    origin_of,
    outside_of_packages,
    suspicious,
    suspicious_exe,
)

WEB, DB = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "ffffffff-ffff-4fff-8fff-ffffffffffff"
APP, SIDECAR, OTHER = "a" * 64, "b" * 64, "c" * 64
MEMFD = "/memfd:runc_cloned:/proc/self/exe (deleted)"  # as /proc/PID/exe shows it


def pod(uid: str, container: str | None = None, prefix: str = "cri-containerd") -> str:
    below = f"/{prefix}-{container}.scope" if container else ""
    slice_name = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    return f"/kubepods.slice/kubepods-burstable.slice/{slice_name}{below}"


def process(
    path: str | None, exe: str | None = "/usr/bin/x", *, kernel_thread: bool = False
) -> Process:
    place = Place(1, path, parse(path or ""))
    return Process(7, 7, comm="x", exe=exe, place=place, kernel_thread=kernel_thread)


TARGET = process(pod(WEB, APP))

CASES = {
    "itself": (process(pod(WEB, APP)), "same-container"),
    "below the container": (process(pod(WEB, APP) + "/deeper"), "same-container"),
    "a sidecar": (process(pod(WEB, SIDECAR)), "same-pod"),
    "the pod's own slice": (process(pod(WEB)), "same-pod"),
    "another pod": (process(pod(DB, OTHER)), "other-pod"),
    "the slice of another pod": (process(pod(DB)), "other-pod"),
    "a container in no pod": (process(f"/system.slice/docker-{OTHER}.scope"), "other-pod"),
    "a nested cgroup that imitates the pod": (
        process(f"/system.slice/docker-{OTHER}.scope" + pod(WEB, APP)),
        "same-container",  # kind: everything before the outermost pod is a node
    ),
    "a shell of the node": (process("/user.slice/user-0.slice/session-1.scope"), "host"),
    "the root cgroup": (process("/"), "host"),
    "a kernel thread": (process("/", None, kernel_thread=True), "host"),
    "a process whose program nobody knows": (process("/", None), None),
    "the shim": (
        process("/system.slice/containerd.service", "/usr/bin/containerd-shim-runc-v2"),
        "runtime",
    ),
    "containerd": (process("/system.slice/containerd.service", "/usr/bin/containerd"), "runtime"),
    "runc": (process("/", "/usr/sbin/runc"), "runtime"),
    "runc in the pod's slice": (process(pod(WEB), "/usr/sbin/runc"), "runtime"),
    "runc's copy of itself in memory": (process("/", MEMFD), "runtime"),
    "crun's copy of itself in memory": (
        process("/", "/memfd:crun_cloned:/proc/self/exe (deleted)"),
        "runtime",
    ),
    "conmon in the pod's slice": (
        process(pod(WEB, f"conmon-{APP}", "crio"), "/usr/bin/conmon"),
        "runtime",
    ),
    "conmon of another pod": (process(pod(DB), "/usr/libexec/crio/conmon"), "runtime"),
    "dockerd": (process("/system.slice/docker.service", "/usr/bin/dockerd"), "runtime"),
    "kubelet": (process("/system.slice/kubelet.service", "/usr/bin/kubelet"), "kubelet"),
    "kubelet, wherever it lies": (process("/", "/srv/bed/bin/kubelet"), "kubelet"),
    "kubelet after an update": (process("/", "/usr/bin/kubelet (deleted)"), "kubelet"),
    "the kubelet of MicroK8s": (process("/", "/snap/microk8s/5000/kubelite"), "kubelet"),
    "the kubelet of k0s": (process("/", "/var/lib/k0s/bin/kubelet"), "kubelet"),
    "the kubelet of RKE2": (process("/", "/var/lib/rancher/rke2/data/v1/bin/kubelet"), "kubelet"),
    "the kubelet of k3s": (process("/", "/var/lib/rancher/k3s/data/0/bin/k3s"), "kubelet"),
    "the kubelet of minikube": (process("/", "/var/lib/minikube/binaries/v1/kubelet"), "kubelet"),
    "the kubelet of Google's nodes": (process("/", "/home/kubernetes/bin/kubelet"), "kubelet"),
    "crun's sealed copy of itself": (process("/", "/crun"), "runtime"),
    "runc's sealed copy of itself": (process("/", "/runc (deleted)"), "runtime"),
    "podman": (process("/", "/usr/bin/podman"), "runtime"),
    "buildkit": (process("/", "/usr/bin/buildkit-runc"), "runtime"),
    # those that would like to be a kubelet
    "kubelet in the container": (process(pod(WEB, APP), "/usr/bin/kubelet"), "same-container"),
    "kubelet in another pod": (process(pod(DB, OTHER), "/usr/bin/kubelet"), "other-pod"),
    "kubelet in the slice of the pod": (process(pod(WEB), "/usr/bin/kubelet"), "same-pod"),
    "kubelet in a container of no pod": (
        process(f"/system.slice/docker-{OTHER}.scope", "/usr/bin/kubelet"),
        "other-pod",
    ),
    "kubelet in memory": (process("/", "/memfd:kubelet (deleted)"), "host"),
    "a program that only begins like kubelet": (process("/", "/usr/bin/kubelet-x"), "host"),
    "a path that may end in kubelet": (process("/", "…/deep/kubelet"), "host"),
    # those that would like to be a runtime
    "a sealed copy in a container": (process(pod(DB, OTHER), "/crun"), "other-pod"),
    "runc in the container": (process(pod(WEB, APP), "/usr/bin/runc"), "same-container"),
    "runc in another pod": (process(pod(DB, OTHER), "/usr/bin/runc"), "other-pod"),
    "the memory copy in a container": (process(pod(DB, OTHER), MEMFD), "other-pod"),
    "runc in /tmp": (process("/", "/tmp/runc"), "host"),
    "runc in shared memory": (process("/", "/dev/shm/runc"), "host"),
    "runc in another memfd": (process("/", "/memfd:runc (deleted)"), "host"),
    "a deleted runc": (process("/", "/usr/bin/runc (deleted)"), "host"),
    "a path whose beginning is missing": (process("/", "…/deep/runc"), "host"),
    "a program that only begins like runc": (process("/", "/usr/bin/runcible"), "host"),
    # unknown is said, never guessed
    "a cgroup without a path": (process(None), None),
    "no description at all": (Process(7, 7), None),
}


@pytest.mark.parametrize(("sender", "origin"), CASES.values(), ids=CASES.keys())
def test_origin(sender: Process, origin: str | None) -> None:
    assert origin_of(sender, TARGET) == origin


def test_a_process_with_a_pid_namespace_of_its_own_is_none_of_the_hosts() -> None:
    """LXC's, a CI runner's: the cgroup names no container that anybody knows."""
    contained = process("/lxc.payload.build")
    contained.pid_level = 1
    on_host = process("/user.slice")
    on_host.pid_level = 0
    beside = process("/lxc.payload.build")
    beside.pid_level = 1
    assert origin_of(contained, TARGET) == "other-pod"
    assert origin_of(contained, on_host) == "other-pod"
    assert origin_of(contained, beside) is None
    assert origin_of(on_host, contained) == "host"
    runtime = process("/", "/usr/sbin/runc")
    runtime.pid_level = 1
    assert origin_of(runtime, TARGET) == "runtime"


def test_a_container_that_is_the_node() -> None:
    """kind, k3d and minikube: the pods lie below it."""
    node = f"/system.slice/docker-{OTHER}.scope"
    target = process(f"{node}/kubelet.slice{pod(WEB, APP)}")
    assert target.place is not None and target.place.identity.container_id == APP
    kubelet = process(f"{node}/kubelet.slice/kubelet.service", "/usr/bin/kubelet")
    runc = process(f"{node}/system.slice/containerd.service", "/usr/local/sbin/runc")
    assert origin_of(kubelet, target) == "kubelet"
    assert origin_of(runc, target) == "runtime"
    assert origin_of(kubelet, TARGET) == origin_of(runc, TARGET) == "other-pod"
    assert origin_of(process(f"{node}/x"), target) == "other-pod"


def test_programs_that_are_several_in_one() -> None:
    of_k3s = process("/", "/var/lib/rancher/k3s/data/0/bin/k3s")
    assert origin_of(of_k3s, TARGET) == "kubelet"
    of_k3s.comm = "containerd"
    assert origin_of(of_k3s, TARGET) == "runtime"


def test_the_kubelet_is_roots() -> None:
    kubelet, sealed = process("/", "/usr/bin/kubelet"), process("/", "/crun")
    assert is_kubelet(kubelet)
    kubelet.uid = sealed.uid = 1000
    assert not is_kubelet(kubelet)
    assert origin_of(kubelet, TARGET) == origin_of(sealed, TARGET) == "host"


def test_an_unknown_target_is_never_guessed_to_be_another_pod() -> None:
    assert origin_of(TARGET, Process(8, 8)) is None
    assert origin_of(TARGET, process(None)) is None


def test_the_targets_side_decides_what_same_means() -> None:
    host = process("/user.slice")
    assert origin_of(TARGET, host) == "other-pod"
    assert origin_of(host, host) == "host"
    plain = process(f"/docker/{OTHER}")
    assert origin_of(plain, plain) == "same-container"
    assert origin_of(host, plain) == "host"


@pytest.mark.parametrize(
    ("exe", "suspicious"),
    [
        (None, False),
        ("/usr/bin/nginx", False),
        ("/usr/bin/nginx (deleted)", True),
        ("/tmp/nginx", True),
        ("/var/tmp/.x", True),
        ("/dev/shm/x", True),
        ("/memfd:x (deleted)", True),
        ("/home/tmp/x", False),
        ("/tmpfiles/x", False),
        (MEMFD, False),
    ],
)
def test_suspicious_programs(exe: str | None, suspicious: bool) -> None:
    assert suspicious_exe(exe) is suspicious


@pytest.mark.parametrize(
    ("exe", "outside"),
    [
        (None, False),
        ("…/srv/x", False),
        ("/usr/local/bin/x", False),
        ("/usrlocal/x", True),
        ("/lib64/ld.so", False),
        ("/opt/cni/bin/bridge", False),
        ("/nix/store/0-x/bin/x", False),
        ("/nix/x", True),
        ("/var/lib/rancher/k3s/data/0/bin/k3s", False),
        ("/var/lib/.x/x", True),
        ("/home/kubernetes/bin/kubelet", False),
        ("/home/me/x", True),
        ("/root/x", True),
        ("/x", True),
        ("/crun", False),  # a sealed copy: a mount of its own, in no directory
        ("/var/lib/minikube/binaries/v1/kubelet", False),
    ],
)
def test_programs_that_no_package_has_put_there(exe: str | None, outside: bool) -> None:
    assert outside_of_packages(exe) is outside


def test_in_a_container_no_program_in_memory_is_excused() -> None:
    """Anybody can call a memfd what runc calls its own."""
    inside, outside = process(pod(WEB, APP), MEMFD), process("/", MEMFD)
    inside.place = Place(1, pod(WEB, APP), parse(pod(WEB, APP)), Pod(WEB), Container(APP))
    assert suspicious(inside)
    assert not suspicious(outside)
    assert suspicious(process("/", "/tmp/x"))
    assert not suspicious(process("/", None))


def test_every_kind_of_shim_is_a_runtime() -> None:
    for name in ("containerd-shim", "containerd-shim-runc-v2", "containerd-shim-kata-v2"):
        assert is_runtime(f"/opt/k3s/bin/{name}")
    assert not is_runtime(None)
