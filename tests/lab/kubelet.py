# SPDX-License-Identifier: Apache-2.0
"""A real kubelet in a guest with cgroup v2 only, and systemd to make its cgroups.

It runs without a control plane: its pods are static, and their uids are no UUIDs. Some are
incidents, which `ktrace why` explains from one recording. Others are replaced; after the kubelet
has ended, pods of containerd alone are replaced, which is faster. Before all that, ktrace itself is
a service of systemd. The guest runs this module as a program.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deploy.debian import Say
from tests.cluster import build
from tests.cluster.churn import FRESH, OWN_INTERPRETER, Replacing, Witness
from tests.lab import service
from tests.lab.image import Additions
from tests.lab.replaced import RAW, replaced
from tests.lab.results import Results
from tests.lab.staging import CALL_SECONDS, CONTAINERD, Stage, telling, told_by
from tests.lab.systemd import SYSTEMD
from tests.support.containerd import Containerd
from tests.support.incidents import DD, SLEEP
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.kubelet import NODE, PROGRAM, Kubelet

SERVICE, LISTED, INCIDENTS, STATIC = "service", "listed", "incidents", "static pods replaced"
STAGES = SERVICE, LISTED, INCIDENTS, STATIC, RAW
# How many pods of each kind are replaced. The kubelet needs seconds for each under emulation.
STATIC_PODS, RAW_PODS = 2, 11
TOGETHER = 2
PROBES = "signals,exits,oom,resets"  # each takes a second to attach there
RECORDING = "/tmp/incidents.ktrace"
# The kubelet checks the running containers every two seconds. When a pod is removed, the kubelet
# does not kill a container that it does not know yet: the runtime does, together with the sandbox.
KNOWN_SECONDS = 3.0


@dataclass(frozen=True)
class Incident:
    """A static pod of this name and its end; `removed` means by deleting its manifest. Pods that
    are to end once have no time to end in a loop."""

    name: str
    verdict: str
    certainty: str
    command: Sequence[str]
    more: Mapping[str, Any] = field(default_factory=dict)
    ends: int = 1
    restarts: bool = True
    removed: bool = False
    shows: str = ""  # the kind of an event in its timeline


REFUSED = {"tcpSocket": {"port": 81}, "periodSeconds": 1}
RESERVED = {"requests": {"memory": "16Mi"}}
TABLE = (
    Incident("exits", "restart_loop", "certain", ("sh", "-c", "exit 9"), ends=3),
    Incident(
        "eats",
        "oom_container_limit",
        "certain",
        DD.split(),
        {"resources": {"limits": {"memory": "32Mi"}}},
        restarts=False,
    ),
    Incident(
        "unhealthy",
        "stop_ignored",
        "likely",  # the probe is the reason, and reasons are likely
        SLEEP,
        {"livenessProbe": REFUSED},
        shows="tcp_reset",
    ),
    # this kubelet grants no grace period to a pod without a manifest
    Incident("removed", "killed_by_kubelet", "certain", SLEEP, removed=True),
)


def kubelet_guest(say: Say) -> Results:
    """The guest's results. LabError if the machine was lost or a stage failed."""
    program = build.binaries(say) / "kubelet"
    additions = Additions(contents=((str(PROGRAM), program.read_bytes()),)) + service.additions()
    return told_by(__name__, say, (), CONTAINERD + SYSTEMD + additions)


def main(port: str) -> int:
    """The guest's main program."""
    with telling(port, STAGES) as stage:
        stage.run(SERVICE, partial(service.recorded, stage))
        stage.begin("starting containerd")
        with Containerd(timeout=CALL_SECONDS, systemd=True) as containerd:
            stage.begin("starting the witness")
            with Witness(containerd.socket) as witness:
                kubelets(stage, containerd, witness)
                # after the kubelet's end, because it would end unknown pods
                replacing = partial(Replacing, containerd, witness, TOGETHER)
                act = partial(replaced, stage, witness, replacing, RAW_PODS)
                stage.run(RAW, act, containerd.log_tail)
    return 0


def kubelets(stage: Stage, containerd: Containerd, witness: Witness) -> None:
    cri = "--cri-socket", str(containerd.socket)
    with Kubelet(containerd) as kubelet:
        stage.begin("starting the recording")
        with Ktrace(
            "record", PROBES, "--all", *cri, output=RECORDING, inside=OWN_INTERPRETER
        ) as ktrace:
            incidents = Incidents(kubelet, containerd, stage)
            static = Static(kubelet, containerd, stage)
            # meanwhile the kubelet backs off before restarting exited containers
            stage.run(LISTED, partial(listed, cri), kubelet.log_tail)
            stage.run(INCIDENTS, partial(incidents.explained, ktrace), kubelet.log_tail)
        stage.run(STATIC, partial(static.replace, witness, STATIC_PODS), kubelet.log_tail)
        stage.begin("stopping the kubelet")


def listed(cri: Sequence[str]) -> list[dict[str, Any]]:
    done = ktrace_once("pods", "-o", "json", *cri)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Incidents:
    def __init__(self, kubelet: Kubelet, containerd: Containerd, stage: Stage) -> None:
        self._kubelet = kubelet
        self._client = containerd.client
        self._stage = stage
        self._lives: dict[str, dict[str, float]] = defaultdict(dict)  # ids, and when first seen
        self._ended: dict[str, set[str]] = {}
        for one in TABLE:
            kubelet.run(one.name, one.command, one.restarts, **one.more)
        self._there = {one.name for one in TABLE}
        self._await("the first ends", lambda: all(self._ended[one.name] for one in TABLE))

    def explained(self, recording: Ktrace) -> list[dict[str, Any]]:
        self._await("each end", lambda: all(len(self._ended[o.name]) >= o.ends for o in TABLE))
        recording.signal(signal.SIGINT)
        assert recording.exit_code() == 0, recording.stderr
        done = ktrace_once("why", RECORDING, "-o", "json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _await(self, what: str, look: Callable[[], object]) -> None:
        def looked() -> bool:
            self._look()
            return bool(look())

        self._stage.wait(what, looked)

    def _look(self) -> None:
        """Records the current containers. Ended ones may be gone already."""
        listed = self._client.list_containers()
        for container in listed:
            name = container.labels["io.kubernetes.pod.name"].removesuffix(f"-{NODE}")
            if container.state in ("running", "exited"):
                self._lives[name].setdefault(container.id, time.monotonic())
        known = time.monotonic() - KNOWN_SECONDS
        running = {container.id for container in listed if container.state == "running"}
        for one in TABLE:
            lives = self._lives[one.name]
            self._ended[one.name] = lives.keys() - running
            known_to_it = {life for life, seen in lives.items() if seen < known}
            enough = known_to_it if one.removed else self._ended[one.name]
            if one.name in self._there and len(enough) >= one.ends:
                self._kubelet.remove(one.name)
                self._there.remove(one.name)


class Static:
    """Static pods that are replaced by changing their manifests, all together."""

    def __init__(self, kubelet: Kubelet, containerd: Containerd, stage: Stage) -> None:
        self._kubelet = kubelet
        self._client = containerd.client
        self._stage = stage
        self._number = 1000
        self._pods: dict[str, tuple[str, str]] = {}  # uid and address by name
        self._run()

    def replace(self, witness: Witness, pods: int) -> list[dict[str, Any]]:
        while witness.tally.pods < pods:
            witness.settle(dict(self._pods.values()))
            self._run()
            for uid, address in self._pods.values():
                witness.ask(uid, address, FRESH)
            witness.tally.pods += TOGETHER
        return [witness.tally.as_facts()]

    def _run(self) -> None:
        self._number += 1
        names = [f"web-{number}" for number in range(TOGETHER)]
        for name in names:
            self._kubelet.run(name, ["sleep", str(self._number)], resources=RESERVED)
        self._pods = {
            name: self._stage.wait(f"another {name}", partial(self._other, name)) for name in names
        }

    def _other(self, name: str) -> tuple[str, str] | None:
        """The uid and address of the new pod, once it differs from the old one."""
        old = self._pods.get(name)
        containers = self._client.list_containers()
        running = {one.sandbox_id for one in containers if one.state == "running"}
        for sandbox in self._client.list_pod_sandboxes():
            there = sandbox.name == f"{name}-{NODE}" and sandbox.id in running
            if there and (old is None or sandbox.uid != old[0]):
                address = self._client.pod_sandbox_status(sandbox.id).ip
                return (sandbox.uid, address) if address else None
        return None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
