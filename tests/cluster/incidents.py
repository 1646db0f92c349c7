# SPDX-License-Identifier: Apache-2.0
"""Incidents as Kubernetes makes them, each with what is true of it.

A row is data: a manifest, what is done to its pod, when it has happened, what `kubectl` shows
then, and what `ktrace why` has to say and must not say. Twins are rows that look like another one
and must not be taken for it. Patterns are regular expressions.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from tests.cluster.bed import IMAGE
from tests.cluster.scene import Scene, Seen, cgroups, pids
from tests.support.ktrace import Ktrace
from tracer import probes

NAMESPACE = "shop"
MIB = 1 << 20
REMIND_SECONDS = 10

Manifest = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Row:
    """`verdict` is None where nothing happened that needs an explanation; `certainty` where it
    depends on the kernel. `says` is in the verdict's sentence, doubts or remedy, `never` in none
    of them; `also` is true of a later life that goes on, or beside it. `kubectl` is what the
    cluster shows. A container that is restarted may be told as a
    loop of that verdict; `loop` says that it must. One that is `live` is explained by a ktrace that
    watches its pod, and not from the recording. `alone`: it disturbs the node's other pods, and so
    has the node to itself. `slow`: not for every run of the tests."""

    manifests: tuple[Manifest, ...]
    what: str
    verdict: str | None
    certainty: str | None
    says: tuple[str, ...]
    never: tuple[str, ...]
    kubectl: tuple[str, ...]
    does: Callable[[Scene], object]
    over: Callable[[Seen], bool]
    container: str
    also: tuple[str, ...]
    loop: bool
    live: bool
    static: bool
    alone: bool
    slow: bool

    @property
    def name(self) -> str:
        return str(self.manifests[0]["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifests[0]["metadata"]["namespace"])


ROWS: list[Row] = []


def nothing(_scene: Scene) -> None:
    """What happens is in the manifest."""


# When a row is over


def ends(times: int = 1, container: str = "app") -> Callable[[Seen], bool]:
    """The container has ended so often."""
    return lambda seen: any(seen.ends(pod, container) >= times for pod in seen.pods)


def gone(seen: Seen) -> bool:
    """There was a pod, and all that there were are no more."""
    return bool(seen.pods) and not seen.living


def event(reason: str, times: int = 1) -> Callable[[Seen], bool]:
    return lambda seen: seen.count(reason) >= times


def waits_for(reason: str) -> Callable[[Seen], bool]:
    return lambda seen: any(reason in seen.waiting(pod) for pod in seen.pods)


def stopped(seen: Seen) -> bool:
    """No process is left of its pods, whatever the API server says or has forgotten."""
    return bool(seen.pods) and not any(pids(pod["metadata"]["uid"]) for pod in seen.pods)


def forgotten(seen: Seen) -> bool:
    return gone(seen) and stopped(seen)


def failed(reason: str) -> Callable[[Seen], bool]:
    """The pod as a whole, and not its container."""
    return lambda seen: (
        stopped(seen) and any(pod["status"].get("reason") == reason for pod in seen.pods)
    )


def row(
    *manifests: Manifest,
    what: str,
    verdict: str | None,
    certainty: str | None = "certain",
    says: tuple[str, ...] = (),
    never: tuple[str, ...] = (),
    kubectl: tuple[str, ...] = (),
    does: Callable[[Scene], object] = nothing,
    over: Callable[[Seen], bool] | None = None,
    container: str = "app",
    also: tuple[str, ...] = (),
    loop: bool = False,
    live: bool = False,
    static: bool = False,
    alone: bool = False,
    slow: bool = False,
) -> None:
    ROWS.append(
        Row(
            manifests,
            what,
            verdict,
            certainty,
            says,
            never,
            kubectl,
            does,
            over or ends(container=container),
            container,
            also,
            loop,
            live,
            static,
            alone,
            slow,
        )
    )


# What is done


def deleted(scene: Scene, *how: str) -> None:
    scene.running()
    scene.kubectl("delete", "--wait=false", "pod", scene.name, *how)


def exec_kill(scene: Scene) -> None:
    scene.process("sleep", "54321")
    scene.kubectl("exec", scene.name, "--", "sh", "-c", kill_of("sleep 54321"))
    scene.process("sleep", "12345")


def rolled_out(scene: Scene, pods: int) -> None:
    scene.running(pods)
    scene.kubectl("rollout", "restart", "deployment", scene.name)


def replaced(scene: Scene, pods: int, times: int) -> str:
    """What a ktrace that traces everything costs meanwhile, and whose its events are."""
    scene.running(pods)
    every = ",".join(probes.names())
    with Ktrace("trace", every, inside=scene.bed.enter) as ktrace:
        process = psutil.Process(ktrace.pid)
        began, used = time.monotonic(), _used(process)
        for rounds in range(1, times + 1):
            scene.kubectl("rollout", "restart", "deployment", scene.name)
            scene.wait_for("its replacement", partial(_are_replaced, pods=pods, times=rounds))
        share = (_used(process) - used) / (time.monotonic() - began)
        memory = process.memory_info().rss / MIB
        events = ktrace.stop()
        lost = ktrace.summary.lost
    names = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in scene.seen.pods}
    its = [e["pod"] for e in events if e.get("pod") and e["pod"]["uid"] in names]
    wrong = sum(pod["name"] != names[pod["uid"]] for pod in its)
    assert its and not wrong and not lost, f"{wrong} of {len(its)} names wrong, {lost} lost"
    return (
        f"{len(its)} events of {len(names)} pods, {wrong} of another name, {lost} lost; all probes"
        f" took {share:.1%} of a core and {memory:.0f} MiB"
    )


def _used(process: psutil.Process) -> float:
    """Seconds of a processor."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _are_replaced(seen: Seen, pods: int, times: int) -> bool:
    return len(seen.pods) >= pods * (times + 1) and len(seen.living) == pods and seen.all_running()


def go(scene: Scene) -> None:
    """Tells the container what it waits for. A kubelet that was restarted takes a while until it
    knows its pods."""
    said = "touch /go && echo gone"
    scene.wait_for(
        "its container to be told",
        lambda _: "gone" in scene.kubectl("exec", scene.name, "--", "sh", "-c", said, check=False),
    )


def remind_the_controller(scene: Scene) -> None:
    """The Job controller looks at a deadline once, and may have been busy then: it looks again
    when the Job changes."""

    reminded = time.monotonic()

    def ended(seen: Seen) -> bool:
        nonlocal reminded
        if time.monotonic() - reminded >= REMIND_SECONDS:
            reminded = time.monotonic()
            change = f"reminded={reminded:.0f}"
            scene.kubectl("annotate", "--overwrite", "job", scene.name, change, check=False)
        return gone(seen)

    scene.wait_for("its deadline", ended)


def limit_pod(scene: Scene, size: int) -> None:
    """As one who does not trust the containers' limits. The kubelet does not look again."""
    (pod,) = scene.running()
    for directory in cgroups(pod["metadata"]["uid"]):
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (file := directory / name).exists():
                file.write_text(str(size))
    go(scene)


# Manifests

SLEEP = ["sleep", "100000"]  # as PID 1 it ignores SIGTERM
WHEN_TOLD = "until [ -e /go ]; do sleep 1; done"
OBEYS = "trap 'exit 0' TERM; sleep 100000 & wait"


def container(command: str | list[str] = OBEYS, name: str = "app", **more: Any) -> Manifest:
    """A string is a script."""
    words = ["sh", "-c", command] if isinstance(command, str) else command
    return {"name": name, "image": IMAGE, "command": words, **more}


def template(name: str, *containers: Manifest, grace: int = 3, **spec: Any) -> Manifest:
    return {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "containers": containers,
            "terminationGracePeriodSeconds": grace,
            "dnsPolicy": "Default",
            **spec,
        },
    }


def pod(name: str, *containers: Manifest, grace: int = 3, **spec: Any) -> Manifest:
    made = template(name, *containers, grace=grace, **spec)
    return named("v1", "Pod", name, made["spec"])


def named(version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    about = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": spec}


def deployment(name: str, replicas: int, made: Manifest) -> Manifest:
    chosen = {"matchLabels": {"app": name}}
    spec = {"replicas": replicas, "selector": chosen, "template": made}
    return named("apps/v1", "Deployment", name, spec)


def memory(amount: str) -> Manifest:
    return {"limits": {"memory": amount}, "requests": {"memory": "1Mi"}}


def check(seconds: int = 2, failures: int = 3, **how: Any) -> Manifest:
    return {"periodSeconds": seconds, "failureThreshold": failures, **how}


def tcp(port: int) -> Manifest:
    return check(tcpSocket={"port": port})


def http(path: str = "/") -> Manifest:
    return check(httpGet={"port": 8080, "path": path})


def runs(*command: str) -> Manifest:
    return check(exec={"command": command})


def kill_of(command: str) -> str:
    """For a shell in the same PID namespace. The search itself does not look like it."""
    letter, rest = command[0], command[1:]
    return f"kill -9 $(ps | awk '/[{letter}]{rest}$/ {{print $1; exit}}')"


def takes(megabytes: int) -> str:
    return f"dd if=/dev/zero of=/dev/null bs={megabytes}M count=1"


# Probes

# A verdict's first line is its sentence.
NOT_EVICTED = r"\A[^\n]*[Ee]vict"
# containerd tells of an OOM kill apart from the container's end. Where the end is told first, the
# kubelet says Error.
OOM_KILLED = r"(OOMKilled|Error), exit code 137"
NOT_BY_HAND = ("--force", "suspicious", "cron jobs, agents and people", NOT_EVICTED)

row(
    pod("liveness-refused", container(SLEEP, livenessProbe=tcp(8080))),
    what="liveness, TCP: nothing listens",
    verdict="stop_ignored",
    certainty="likely",
    says=(r"probe of port 8080[^\n]*refused[^\n]*SIGKILL",),
    never=NOT_BY_HAND,
    also=("closed_port",),
    kubectl=(
        r"Liveness probe failed: dial tcp .*:8080: connect: connection refused",
        "exit code 137",
    ),
)
row(
    pod(
        "liveness-404",
        container(f"mkdir /www; httpd -p 8080 -h /www; {OBEYS}", livenessProbe=http("/no")),
    ),
    what="liveness, HTTP: 404",
    verdict="stopped_in_time",
    certainty="likely",
    says=("kubectl .*shop.*liveness-404",),
    never=("refused", *NOT_BY_HAND),
    kubectl=("Liveness probe failed: HTTP probe failed with statuscode: 404", "exit code 0"),
)
row(
    pod(
        "liveness-timeout",
        container(f"nc -ll -p 8080 -e sleep 100000 & {OBEYS}", livenessProbe=http()),
    ),
    what="liveness, HTTP: no answer",
    verdict="stopped_in_time",
    certainty="likely",
    says=("kubectl .*shop.*liveness-timeout",),
    never=("refused", *NOT_BY_HAND),
    kubectl=("Liveness probe failed: .*(Client.Timeout|deadline) exceeded", "exit code 0"),
)
row(
    pod("liveness-exec-hangs", container(OBEYS, livenessProbe=runs("sleep", "600"))),
    what="liveness, exec: hangs",
    verdict="stopped_in_time",
    certainty="likely",
    says=(r"probe[^\n]*sleep 600[^\n]*SIGTERM",),
    never=("refused", *NOT_BY_HAND),
    kubectl=("Liveness probe failed", "exit code 0"),
)
row(
    pod("liveness-exec-fails", container(OBEYS, livenessProbe=runs("sh", "-c", "exit 7"))),
    what="liveness, exec: fails",
    verdict="stopped_in_time",
    certainty="likely",
    says=(r"probe[^\n]*exit 7[^\n]*exit code 7[^\n]*SIGTERM",),
    never=("refused", *NOT_BY_HAND),
    kubectl=("Liveness probe failed", "exit code 0"),
)
row(
    pod("readiness-refused", container(SLEEP, readinessProbe=tcp(9090))),
    what="readiness, TCP: nothing listens",
    verdict="closed_port",
    says=("9090",),
    never=("stopped", "killed"),
    kubectl=(r"Readiness probe failed: dial tcp .*:9090: connect: connection refused",),
    over=event("Unhealthy", 3),
)
row(
    pod("readiness-exec-fails", container(OBEYS, readinessProbe=runs("sh", "-c", "exit 7"))),
    what="readiness, exec: fails",
    verdict="exec_probe_failing",
    certainty="likely",
    says=("exit 7.* exit code 7",),
    never=("stopped", "killed"),
    kubectl=("Readiness probe failed",),
    over=event("Unhealthy", 3),
)
row(
    pod("startup-refused", container(SLEEP, startupProbe=tcp(8080))),
    what="startup probe: nothing listens",
    verdict="stop_ignored",
    certainty=None,  # this kubelet acts on it a minute later, when that could be another reason
    says=("SIGKILL", "kubectl get events -n shop .*startup-refused"),
    never=NOT_BY_HAND,
    also=("closed_port",),
    kubectl=(r"Startup probe failed: dial tcp", "exit code 137"),
)

# Memory

row(
    pod("oom", container(f"sleep 2; exec {takes(64)}", resources=memory("32Mi"))),
    what="OOM of the container",
    verdict="oom_container_limit",
    says=("container's", "32 MiB"),
    never=("shared by all",),
    kubectl=(OOM_KILLED,),
)
row(
    pod("oom-child", container(f"sleep 2; {takes(64)}; {OBEYS}", resources=memory("32Mi"))),
    what="OOM of a child: the container lives on",
    verdict="oom_of_child",
    says=("container's", "32 MiB", "goes on"),
    never=("shared by all", "the pod's memory limit"),
    kubectl=("app: running, 0 restarts",),
    does=lambda scene: scene.process(*SLEEP),
    over=Seen.all_running,
)
row(
    pod(
        "oom-pod",
        container(f"{WHEN_TOLD}; exec {takes(48)}", resources=memory("64Mi")),
    ),
    what="OOM at a limit of the pod's own",
    verdict="oom_pod_limit",
    says=("pod's memory limit of 24 MiB",),
    kubectl=(OOM_KILLED,),
    does=lambda scene: limit_pod(scene, 24 * MIB),
)
row(
    pod(
        "oom-tmpfs",
        container(
            "[ -e /left/file ] || exec dd if=/dev/zero of=/left/file bs=1M count=24;"
            f" exec {takes(20)}",
            resources=memory("32Mi"),
            volumeMounts=[{"name": "left", "mountPath": "/left"}],
        ),
        volumes=[{"name": "left", "emptyDir": {"medium": "Memory"}}],
    ),
    what="OOM by a tmpfs that an earlier life left",
    verdict="oom_container_limit",
    says=("32 MiB", "tmpfs"),
    never=("shared by all",),
    kubectl=(OOM_KILLED,),
    over=ends(2),
)

# Ends by itself

for code, script in {1: "exit 1", 127: "nosuchcommand", 137: "exit 137"}.items():
    row(
        pod(f"crash-{code}", container(f"sleep 1; {script}")),
        what=f"CrashLoop: exit code {code}" + " by itself" * (code > 128),
        verdict="exited",
        says=(rf"exit\({code}\)",),
        never=(r"\Akilled", "out of memory"),
        kubectl=(f"Error, exit code {code}", "Back-off restarting failed container"),
        over=ends(4),
        loop=True,
    )
row(
    pod("crash-no-command", container(["/nosuch/server", "--now"])),
    what="CrashLoop: no such command",
    verdict="start_failed",
    says=("/nosuch/server|command",),
    kubectl=("no such file or directory",),
    over=ends(4),
    loop=True,
)
row(
    pod("crash-init", container(SLEEP), initContainers=[container("exit 3", "setup")]),
    what="CrashLoop: an init container fails",
    verdict="exited",
    says=(r"exit\(3\)",),
    kubectl=("setup: Error, exit code 3",),
    over=ends(4, "setup"),
    container="setup",
    loop=True,
)
row(
    pod("killed-on-host", container(SLEEP)),
    what="twin of an OOM: kill -9 on the node",
    verdict="killed_from_host",
    live=True,
    never=("out of memory",),
    kubectl=("Error, exit code 137",),
    does=lambda scene: os.kill(scene.process(*SLEEP), signal.SIGKILL),
)

# Deleted

DELETED = ("probe of", "suspicious", NOT_EVICTED)

for grace in (5, 30):
    row(
        pod(f"grace-{grace}", container(SLEEP), grace=grace),
        what=f"deleted, grace {grace} s, PID 1 ignores SIGTERM",
        verdict="stop_ignored",
        says=("SIGTERM", rf"{grace}(\.\d)? s"),
        never=(*DELETED, "--force"),
        kubectl=("the pod is gone", "Killing: Stopping container app"),
        does=lambda scene: deleted(scene),
        over=gone,
    )
row(
    pod("obeys", container(OBEYS), grace=5),
    what="deleted, and obeys",
    verdict="stopped_in_time",
    certainty="likely",
    never=(*DELETED, "--force"),
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: deleted(scene),
    over=gone,
)


def hook(*command: str) -> Manifest:
    return {"preStop": {"exec": {"command": command}}}


row(
    pod("prestop", container(OBEYS, lifecycle=hook("sleep", "3")), grace=20),
    what="deleted, preStop takes 3 s",
    verdict="stopped_in_time",
    certainty="likely",
    says=(r"preStop hook \(sleep 3\)[^\n]*[3-9](\.\d)? s[^\n]*SIGTERM",),
    never=(*DELETED, "--force"),
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: deleted(scene),
    over=gone,
)
row(
    pod("prestop-hangs", container(OBEYS, lifecycle=hook("sleep", "600")), grace=4),
    what="deleted, preStop hangs",
    verdict="stopped_in_time",
    certainty="likely",
    says=(r"preStop hook \(sleep 600\) had not finished[^\n]*SIGTERM",),
    never=(*DELETED, "--force"),
    kubectl=("FailedPreStopHook",),
    does=lambda scene: deleted(scene),
    over=gone,
)
row(
    pod("forced", container(SLEEP), grace=30),
    what="deleted with --force --grace-period=0",
    verdict="stop_ignored",
    certainty="likely",
    says=("--force", r"2(\.\d)? s"),
    never=DELETED,
    kubectl=("the pod is gone",),
    does=lambda scene: deleted(scene, "--force", "--grace-period=0"),
    over=forgotten,
    slow=True,  # judged by a second: not on a machine that has other things to do
)
row(
    pod("grace-2", container(SLEEP), grace=2),
    what="twin of a forced one: grace 2 s",
    verdict="stop_ignored",
    certainty="likely",
    says=(r"2(\.\d)? s", "terminationGracePeriodSeconds"),
    never=DELETED,
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: deleted(scene),
    over=gone,
    slow=True,  # judged by a second: not on a machine that has other things to do
)
row(
    pod("grace-0", container(SLEEP), grace=0),
    what="twin of a forced one: grace 0",
    verdict="stop_ignored",
    certainty="likely",
    says=(r"2(\.\d)? s", "terminationGracePeriodSeconds"),
    never=DELETED,
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: deleted(scene),
    over=gone,
    slow=True,  # judged by a second: not on a machine that has other things to do
)
row(
    named(
        "batch/v1",
        "Job",
        "job-deadline",
        {
            "activeDeadlineSeconds": 20,
            "template": template("job-deadline", container(SLEEP), restartPolicy="Never"),
        },
    ),
    what="a Job's deadline",
    verdict="stop_ignored",
    says=("SIGTERM",),
    never=("--force", "suspicious"),
    kubectl=("DeadlineExceeded",),
    does=remind_the_controller,
    over=gone,
)
row(
    pod("pod-deadline", container(SLEEP), activeDeadlineSeconds=15),
    what="twin: a pod's deadline",
    verdict="stop_ignored",
    says=("SIGTERM",),
    never=("--force", "suspicious"),
    kubectl=("DeadlineExceeded",),
    over=failed("DeadlineExceeded"),
)

# Evicted

BARE = ("--force", "suspicious", "probe of")

row(
    pod(
        "evicted-emptydir",
        container(
            f"dd if=/dev/zero of=/full/file bs=1M count=8; {OBEYS}",
            volumeMounts=[{"name": "full", "mountPath": "/full"}],
        ),
        volumes=[{"name": "full", "emptyDir": {"sizeLimit": "1Mi"}}],
    ),
    what="evicted: an emptyDir over its limit",
    verdict="killed_by_runtime",
    certainty=None,
    says=("evicted", "kubectl .*shop evicted-emptydir"),
    never=BARE,
    kubectl=("Evicted: Usage of EmptyDir volume",),
    over=failed("Evicted"),
)

# Killed by somebody in the cluster

row(
    pod("exec-kills", container("sleep 54321; sleep 12345")),
    what="kubectl exec … kill -9 of a worker",
    verdict="child_killed",
    certainty=None,
    says=("exec",),
    kubectl=("app: running, 0 restarts",),
    does=lambda scene: exec_kill(scene),
    over=Seen.all_running,
)
row(
    pod(
        "sidecar-kills",
        container(["sleep", "54321"]),
        container(f"sleep 3; {kill_of('sleep 54321')}; sleep 100000", "side"),
        shareProcessNamespace=True,
    ),
    what="a sidecar kills, PID namespace shared",
    verdict="killed_from_same_pod",
    certainty=None,
    says=("side",),
    kubectl=("app: Error, exit code 137",),
)

# Where pods come from

row(
    {
        **pod("static", container("sleep 2; exit 9")),
    }
    | {"metadata": {"name": "static", "namespace": "kube-system", "labels": {"app": "static"}}},
    what="a static pod that exits",
    verdict="exited",
    says=(r"exit\(9\)",),
    kubectl=("Error, exit code 9",),
    static=True,
)
row(
    pod(
        "host-network",
        container(SLEEP, livenessProbe=check(tcpSocket={"port": 18099})),
        hostNetwork=True,
    ),
    what="hostNetwork, liveness: nothing listens",
    verdict="stop_ignored",
    says=("kubectl .*shop.*host-network",),
    never=("suspicious", "--force"),
    kubectl=("Liveness probe failed: dial tcp", "exit code 137"),
)
row(
    deployment("rollout", 2, template("rollout", container(OBEYS))),
    what="a rollout",
    verdict="stopped_in_time",
    certainty="likely",
    never=BARE,
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: rolled_out(scene, 2),
    over=lambda seen: len(seen.pods) == 4 and len(seen.living) == 2,
)

# Nothing runs yet

row(
    pod("no-image", {"name": "app", "image": "ktrace.test/absent:1", "imagePullPolicy": "Never"}),
    what="the image is missing",
    verdict="no_container",
    certainty="unknown",
    says=("kubectl describe pod -n shop no-image",),
    live=True,
    kubectl=("ErrImageNeverPull",),
    over=waits_for("ErrImageNeverPull"),
)
row(
    pod("no-configmap", container(envFrom=[{"configMapRef": {"name": "absent"}}])),
    what="a ConfigMap is missing",
    verdict="no_container",
    certainty="unknown",
    says=("kubectl describe pod -n shop no-configmap",),
    live=True,
    kubectl=("CreateContainerConfigError",),
    over=waits_for("CreateContainerConfigError"),
)
row(
    pod("well", container(OBEYS)),
    what="nothing happens",
    verdict=None,
    kubectl=("app: running, 0 restarts",),
    does=lambda scene: scene.running(),
    over=Seen.all_running,
)


# With the node to themselves


def orphaned(scene: Scene) -> None:
    scene.process(*SLEEP)
    scene.bed.stop_daemon("kubelet")
    deleted(scene, "--force", "--grace-period=0")
    scene.bed.start_daemon("kubelet")


def daemons_killed(scene: Scene) -> None:
    pid = scene.process(*SLEEP)
    for daemon in ("kubelet", "containerd"):
        scene.bed.kill_daemon(daemon)
    for daemon in ("containerd", "kubelet"):
        scene.bed.start_daemon(daemon)
    os.kill(pid, signal.SIGKILL)


row(
    pod("orphan", container(SLEEP)),
    what="deleted while the kubelet was away",
    verdict="killed_by_kubelet",
    certainty=None,
    says=("kubelet",),
    never=("suspicious", "cron jobs, agents and people"),
    kubectl=("the pod is gone",),
    does=orphaned,
    over=forgotten,
    alone=True,
)
row(
    pod("daemons-killed", container(SLEEP)),
    what="kubelet and containerd killed, then the container",
    verdict="killed_from_host",
    kubectl=("Error, exit code 137",),
    does=daemons_killed,
    alone=True,
)


# Machines


def memory_runs_short(scene: Scene) -> None:
    """The limit at which the kubelet evicts lies a little below what is left now."""
    scene.running()
    left = _summary(scene)["memory"]["availableBytes"] - 500 * MIB
    _evict(scene, {"memory.available": str(left)})


def disk_runs_short(scene: Scene) -> None:
    scene.running()
    left = _summary(scene)["fs"]["availableBytes"] - 500 * MIB
    _evict(scene, {"nodefs.available": str(left)})


def _summary(scene: Scene) -> Manifest:
    said = scene.bed.kubectl("get", "--raw", f"/api/v1/nodes/{scene.bed.node}/proxy/stats/summary")
    node: Manifest = json.loads(said)["node"]
    return node


def _evict(scene: Scene, limits: Manifest) -> None:
    with scene.bed.kubelet_with(evictionHard=limits):
        go(scene)
        scene.wait_for("its eviction", failed("Evicted"))


row(
    # dd fills its memory, and then waits for a reader that does not read
    pod(
        "evicted-memory", container(f"{WHEN_TOLD}; dd if=/dev/zero bs=1024M count=1 | sleep 100000")
    ),
    what="evicted: the node's memory runs short",
    verdict="killed_by_runtime",
    certainty=None,
    says=("evicted", "kubectl .*shop evicted-memory"),
    never=BARE,
    kubectl=("Evicted: The node was low on resource: memory",),
    does=memory_runs_short,
    over=failed("Evicted"),
    alone=True,
    slow=True,
)
CROWD = 30
row(
    deployment("crowd", CROWD, template("crowd", container(OBEYS))),
    what=f"{CROWD} pods, replaced twice",
    verdict="stopped_in_time",
    certainty="likely",
    never=BARE,
    kubectl=("Killing: Stopping container app",),
    does=lambda scene: replaced(scene, CROWD, 2),
    over=lambda seen: len(seen.living) == CROWD,
    alone=True,
    slow=True,
)
# The last one, because a kubelet whose disk is full removes images as well.
row(
    pod(
        "evicted-disk",
        container(
            f"{WHEN_TOLD}; dd if=/dev/zero of=/full/file bs=1M count=1024; {OBEYS}",
            volumeMounts=[{"name": "full", "mountPath": "/full"}],
        ),
        volumes=[{"name": "full", "emptyDir": {}}],
    ),
    what="evicted: the node's disk runs short",
    verdict="killed_by_runtime",
    certainty=None,
    says=("evicted", "kubectl .*shop evicted-disk"),
    never=BARE,
    kubectl=("Evicted: The node was low on resource: ephemeral-storage",),
    does=disk_runs_short,
    over=failed("Evicted"),
    alone=True,
    slow=True,
)
