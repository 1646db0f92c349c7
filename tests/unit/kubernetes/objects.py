# SPDX-License-Identifier: Apache-2.0
"""Events and pods as an API server writes them, of the pod of tests.unit.why.world."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from tests.unit.why.world import CLOCK, SECOND, UID
from tracer.model.kubernetes import moment

Json = dict[str, Any]
# When the tests' stories happen, in seconds since boot.
TEN = 10


def at(seconds: float) -> str:
    return moment(int(seconds * SECOND) + CLOCK.offset_ns)


def event(
    reason: str,
    message: str,
    *,
    first: float = TEN,
    last: float | None = None,
    count: int = 1,
    container: str = "app",
    uid: str = UID,
    kind: str = "Pod",
    name: str = "web-0",
    component: str = "kubelet",
) -> Json:
    path = {"fieldPath": f"spec.containers{{{container}}}"} if container else {}
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{name}.{crc32(f'{reason} {message}'.encode()):x}",
            "namespace": "shop",
            "uid": f"event {reason} {message}",
        },
        "involvedObject": {"kind": kind, "namespace": "shop", "name": name, "uid": uid, **path},
        "reason": reason,
        "message": message,
        "source": {"component": component, "host": "node1"},
        "firstTimestamp": at(first),
        "lastTimestamp": at(first if last is None else last),
        "count": count,
        "type": "Warning",
    }


def pod(*, grace: int = 30, deleted: float | None = None, given: int = 30, **more: Any) -> Json:
    meta: Json = {"name": "web-0", "namespace": "shop", "uid": UID}
    if deleted is not None:
        meta |= {"deletionTimestamp": at(deleted + given), "deletionGracePeriodSeconds": given}
    container = {
        "name": "app",
        "env": [{"name": "PASSWORD", "value": "secret"}],
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": 8080},
            "periodSeconds": 2,
            "failureThreshold": 3,
            "timeoutSeconds": 1,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
    }
    return {
        "kind": "Pod",
        "metadata": meta,
        "spec": {
            "nodeName": "node1",
            "terminationGracePeriodSeconds": grace,
            "containers": [container],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {
                    "name": "app",
                    "ready": False,
                    "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                    "lastState": {
                        "terminated": {
                            "exitCode": 137,
                            "reason": "Error",
                            "finishedAt": at(9),
                        }
                    },
                }
            ],
            **more,
        },
    }


def listed(*items: Json) -> Json:
    return {"kind": "List", "apiVersion": "v1", "items": list(items)}
