# SPDX-License-Identifier: Apache-2.0
"""What the cluster says while incidents happen in it, and what can be done to their pods.

`View` asks the API server once a second for everything, so that rows which wait side by side cost
one question together. `Seen` is what it says of one row: also of pods that are gone by now.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.cluster.bed import Bed
from tests.support.wait import wait_for
from tracer.kernel.hierarchies import hierarchies

Json = dict[str, Any]
LOOK_SECONDS = 1.0
WAIT_SECONDS = 120.0
# Of the events that say that all is well.
ORDINARY = ("Scheduled", "Pulled", "Created", "Started", "SuccessfulCreate", "ScalingReplicaSet")


@dataclass(frozen=True)
class Seen:
    """What `kubectl get pods,events` says of one row."""

    pods: Sequence[Json]
    present: frozenset[str]
    events: Sequence[Json]

    def ends(self, pod: Json, container: str) -> int:
        """How often the container has ended."""
        status = _status(pod, container)
        if status is None:
            return 0
        return int(status["restartCount"]) + ("terminated" in status["state"])

    def running(self, pod: Json) -> bool:
        statuses = pod["status"].get("containerStatuses", [])
        return bool(statuses) and all("running" in status["state"] for status in statuses)

    @property
    def living(self) -> list[Json]:
        return [pod for pod in self.pods if pod["metadata"]["uid"] in self.present]

    def all_running(self) -> bool:
        return bool(self.living) and all(self.running(pod) for pod in self.living)

    def waiting(self, pod: Json) -> list[str]:
        """For what its containers wait."""
        every = [*pod["status"].get("initContainerStatuses", ())]
        every += pod["status"].get("containerStatuses", ())
        return [s["state"]["waiting"]["reason"] for s in every if "waiting" in s["state"]]

    def count(self, reason: str) -> int:
        """How often an event came."""
        return sum(e["count"] or 1 for e in self.events if e["reason"] == reason)

    def in_words(self) -> Iterator[str]:
        """As a person would read it in `kubectl get` and `kubectl describe`."""
        told: dict[str, None] = {}
        for pod in self.pods:
            told.update(dict.fromkeys(_pod_in_words(pod, pod["metadata"]["uid"] in self.present)))
        for event in self.events:
            if event["reason"] not in ORDINARY:
                told[f"{event['reason']}: {' '.join(event['message'].split())}"] = None
        yield from told


def _status(pod: Json, container: str) -> Json | None:
    status = pod["status"]
    every = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return next((each for each in every if each["name"] == container), None)


def _pod_in_words(pod: Json, present: bool) -> Iterator[str]:
    status = pod["status"]
    if not present:
        yield "the pod is gone"
        return
    if status.get("reason"):
        yield f"{status['phase']}, {status['reason']}: {status.get('message', '')}"
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        for state in (each.get("lastState", {}), each["state"]):
            if ended := state.get("terminated"):
                yield f"{each['name']}: {ended['reason']}, exit code {ended['exitCode']}"
            elif waiting := state.get("waiting"):
                yield f"{each['name']}: {waiting['reason']}"
            elif "running" in state:
                ready = "" if each["ready"] else ", not ready"
                yield f"{each['name']}: running{ready}, {each['restartCount']} restarts"


class View:
    """Keeps what was seen, also of what is gone."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._pods: dict[str, Json] = {}
        self._present: frozenset[str] = frozenset()
        self._events: dict[str, Json] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def seen(self, namespace: str, name: str) -> Seen:
        """Of all that has this label `app`, and of what made it."""
        pods = [
            pod
            for pod in list(self._pods.values())
            if pod["metadata"]["namespace"] == namespace
            and pod["metadata"].get("labels", {}).get("app") == name
        ]
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        names = {name, *(pod["metadata"]["name"] for pod in pods)}
        events = [
            event
            for event in list(self._events.values())
            if event["involvedObject"].get("namespace") == namespace
            and event["involvedObject"]["name"] in names
        ]
        return Seen(pods, self._present, events)

    def _look_on(self) -> None:
        """While the API server is away there is nothing new."""
        while not self._stop.is_set():
            with suppress(Exception):
                self._look()
            self._stop.wait(LOOK_SECONDS)

    def _look(self) -> None:
        said = self._bed.kubectl("get", "pods,events", "--all-namespaces", "-o", "json")
        present = set()
        for item in json.loads(said)["items"]:
            uid = item["metadata"]["uid"]
            if item["kind"] == "Pod":
                self._pods[uid] = item
                present.add(uid)
            else:
                self._events[uid] = item
        self._present = frozenset(present)


@dataclass(frozen=True)
class Scene:
    """The pods of one row."""

    bed: Bed
    view: View
    namespace: str
    name: str

    @property
    def seen(self) -> Seen:
        return self.view.seen(self.namespace, self.name)

    def kubectl(self, *words: str, check: bool = True) -> str:
        return self.bed.kubectl("--namespace", self.namespace, *words, check=check)

    def wait_for(
        self, what: str, look: Callable[[Seen], Any], seconds: float = WAIT_SECONDS
    ) -> Any:
        return wait_for(f"{self.name}: {what}", lambda: look(self.seen), seconds, 0.1)

    def running(self, pods: int = 1) -> list[Json]:
        """Waits until as many pods run, all containers of them."""

        def found(seen: Seen) -> list[Json] | None:
            up = [pod for pod in seen.living if seen.running(pod)]
            return up if len(up) >= pods else None

        up: list[Json] = self.wait_for("its containers to run", found)
        return up

    def process(self, *argv: str) -> int:
        """Waits for the process with these arguments in the row's newest pod."""
        wanted = b"".join(word.encode() + b"\0" for word in argv)
        (*_, pod) = self.running()
        uid = pod["metadata"]["uid"]
        return wait_for(f"{self.name}: {argv[0]} to run", lambda: _pid(uid, wanted), WAIT_SECONDS)


def cgroups(uid: str) -> list[Path]:
    """The directories of a pod, in every hierarchy, wherever its class of service puts it."""
    found: list[Path] = []
    for hierarchy in hierarchies():
        for place in ("*/kubepods", "*/kubepods/burstable", "*/kubepods/besteffort"):
            found += Path(hierarchy.mount).glob(f"{place}/pod{uid}")
    return found


def pids(uid: str) -> list[int]:
    """Of all processes in a pod. The directories may outlive them, or go meanwhile."""
    found: dict[int, None] = {}
    for directory in cgroups(uid):
        for place, _, _ in os.walk(directory):
            with suppress(OSError):
                procs = Path(place, "cgroup.procs").read_text()
                found.update(dict.fromkeys(map(int, procs.split())))
    return list(found)


def _pid(uid: str, argv: bytes) -> int | None:
    for pid in pids(uid):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == argv:
                return pid
    return None
