# SPDX-License-Identifier: Apache-2.0
"""Pods of a workload such as `deploy/web`.

Only the API server knows a pod's owner. A node has the pod's name, which its controller made, and
mostly its labels, some of which the controller sets. Both together identify the owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import escape

from tracer.model.names import Pod

# The API server's suffix for unique names uses letters and digits that form no words; a name that
# would become too long is cut.
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_SUFFIX = re.compile(_SAFE + "{5}")
_HASH = re.compile(rf"(?P<owner>.+)-{_SAFE}{{1,10}}")
_CUT_AT = 58
_WORDS = re.compile(r"(?:(?P<namespace>[^/]+)/)?(?P<kind>[^/]+)/(?P<name>[^/]+)")

_TEMPLATE_HASH = "pod-template-hash"
_REVISION_HASH = "controller-revision-hash"
_STATEFUL_POD = "statefulset.kubernetes.io/pod-name"
_JOBS = ("batch.kubernetes.io/job-name", "job-name")


@dataclass(frozen=True, slots=True)
class Workload:
    """`namespace` and `name` are globs; `how` says in words how its pods are identified."""

    kind: str
    name: str
    namespace: str | None
    how: str

    def owns(self, pod: Pod) -> bool | None:
        """None while the pod's name is not known."""
        if pod.name is None:
            return None
        return _KINDS[self.kind].owns(pod.name, pod.labels, self.name)


@lru_cache(maxsize=256)
def parse(text: str) -> Workload | None:
    """`deploy/web` or `shop/deploy/web`; None if the text names no workload."""
    found = _WORDS.fullmatch(text)
    kind = _ALIASES.get(found["kind"].lower()) if found else None
    if found is None or kind is None:
        return None
    how = _KINDS[kind].how.format(name=found["name"])
    return Workload(kind, found["name"], found["namespace"], how)


def _of_deployment(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    if labels is not None:
        told = labels.get(_TEMPLATE_HASH)
        return told is not None and _is_generated(pod, f"{name}-{escape(told)}")
    found = _HASH.fullmatch(pod[:-6])
    return bool(found and _is_generated(pod, "*") and fnmatchcase(found["owner"], name))


def _of_replica_set(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    others = (_REVISION_HASH, *_JOBS)
    return _is_generated(pod, name) and not any(label in (labels or {}) for label in others)


def _of_daemon_set(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    return _is_generated(pod, name) and (labels is None or _REVISION_HASH in labels)


def _of_stateful_set(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    owner, _, ordinal = pod.rpartition("-")
    told = labels is None or labels.get(_STATEFUL_POD) == pod
    return told and ordinal.isdecimal() and fnmatchcase(owner, name)


def _of_job(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    if labels is not None:
        return any(fnmatchcase(labels[key], name) for key in _JOBS if key in labels)
    return _is_generated(pod, name)


def _of_cron_job(pod: str, labels: Mapping[str, str] | None, name: str) -> bool:
    """A cron job's jobs are named after it and the time."""
    jobs = [labels[key] for key in _JOBS if key in labels] if labels is not None else [pod[:-6]]
    owners = [job.rpartition("-") for job in jobs]
    timed = any(time.isdecimal() and fnmatchcase(owner, name) for owner, _, time in owners)
    return timed and (labels is not None or _is_generated(pod, "*"))


def _is_generated(pod: str, owner: str) -> bool:
    """Whether the API server made this name from the owner's, which is a glob."""
    begin, suffix = pod[:-5], pod[-5:]
    return bool(_SUFFIX.fullmatch(suffix)) and fnmatchcase(begin, f"{owner}-"[:_CUT_AT])


@dataclass(frozen=True)
class _Kind:
    owns: Callable[[str, Mapping[str, str] | None, str], bool]
    how: str


_KINDS = {
    "Deployment": _Kind(
        _of_deployment, "named {name}-<hash>-<5 characters>, with that hash as their label"
    ),
    "ReplicaSet": _Kind(_of_replica_set, "named {name}-<5 characters>"),
    "DaemonSet": _Kind(
        _of_daemon_set, "named {name}-<5 characters>, with a label that daemon sets give"
    ),
    "StatefulSet": _Kind(_of_stateful_set, "named {name}-<number>, with a label that says so"),
    "Job": _Kind(_of_job, "with the label job-name={name}, else named {name}-<5 characters>"),
    "CronJob": _Kind(
        _of_cron_job, "of jobs named {name}-<time>, by their label, else by their name"
    ),
}
_ALIASES = {
    **dict.fromkeys(("deploy", "deployment", "deployments"), "Deployment"),
    **dict.fromkeys(("rs", "replicaset", "replicasets"), "ReplicaSet"),
    **dict.fromkeys(("ds", "daemonset", "daemonsets"), "DaemonSet"),
    **dict.fromkeys(("sts", "statefulset", "statefulsets"), "StatefulSet"),
    **dict.fromkeys(("job", "jobs"), "Job"),
    **dict.fromkeys(("cj", "cronjob", "cronjobs"), "CronJob"),
}
