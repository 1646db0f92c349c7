# SPDX-License-Identifier: Apache-2.0
"""Whether a selection matches anything on this node when tracing begins. If not, silence would look
like health, so the user is told."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tracer.kernel.cgroupfs import container_cgroups
from tracer.model.event import Place
from tracer.model.names import Container, Names, Pod
from tracer.model.selection import AS_SENDER, AS_TARGET, Mode, Selection

# The selectors of the command line, by the fields of a selection.
_FLAGS = {
    "pods": "--pod",
    "namespaces": "--namespace",
    "containers": "--container",
    "labels": "--selector",
    "sender_pods": "--sender-pod",
}


def unmatched(chosen: Selection, names: Names) -> str | None:
    """What the selection asks for and this node does not have yet, in words. None if something
    matches, or may match: its name is not known."""
    if chosen.pids and not any(os.path.exists(f"/proc/{pid}") for pid in chosen.pids):
        return f"no process {' or '.join(map(str, sorted(chosen.pids)))} is running yet; waiting"
    if chosen.mode is Mode.ALL or _matches(chosen, _places(names)):
        return None
    here = list(_places(names))
    if chosen.mode is Mode.EITHER:
        return "nothing on this node is in a pod or container yet: --all traces the whole node"
    asked = {field: values for field in _FLAGS if (values := getattr(chosen, field))}
    alone = {field: replace(_NOTHING, **{field: values}) for field, values in asked.items()}
    plain = {field: replace(one, without_pods=chosen.without_pods) for field, one in alone.items()}
    missing = [field for field, one in plain.items() if not _matches(one, here)]
    flags = [word for field in missing or asked for word in _words(field, asked[field])]
    return (
        f"nothing on this node matches {' '.join(flags)} yet{_hint(missing, asked, here)};"
        " waiting for it; ktrace pods lists what is here"
    )


_NOTHING = Selection()


def _places(names: Names) -> Iterator[Place]:
    """The cgroups with processes, named. Sandboxes are left out: nobody selects one by its name."""
    for cgroup in container_cgroups():
        identity = cgroup.identity
        if not cgroup.own_processes():
            continue
        container = None
        if identity.container_id:
            unknown = Container(identity.container_id, identity.runtime)
            container = names.containers.get(identity.container_id, unknown)
        uid = identity.pod_uid or (container and container.pod_uid)
        if container is None or not container.is_sandbox:
            pod = names.pods.get(uid, Pod(uid)) if uid else None
            yield Place(cgroup.id, cgroup.path, identity, pod, container)


def _matches(chosen: Selection, places: Iterable[Place]) -> bool:
    sides = AS_TARGET * chosen.about_target | AS_SENDER * bool(chosen.sender_pods)
    seen = 0
    for place in places:
        verdict = chosen.verdict(place)
        if verdict is None or (verdict and chosen.mode is Mode.EITHER):
            return True
        seen |= verdict
        if sides and seen & sides == sides:
            return True
    return False


def _words(field: str, values: Sequence[object]) -> list[str]:
    flag = _FLAGS[field]
    return [f"{flag} {shlex.quote(_text(value))}" for value in values]


def _text(value: object) -> str:
    """Labels are pairs; one of which only the key is asked for has no value."""
    if not isinstance(value, tuple):
        return str(value)
    key, label = value
    return key if label is None else f"{key}={label}"


def _hint(missing: Sequence[str], asked: dict[str, Sequence[object]], here: list[Place]) -> str:
    if not any(place.pod for place in here) and set(asked) != {"containers"}:
        other = "; -c NAME selects a container that is in none" if here else ""
        return f": no pod is here{other}"
    if len(missing) != 1:
        return ""
    known = {
        "namespaces": {place.pod.namespace for place in here if place.pod},
        "containers": {place.container.name for place in here if place.container},
    }.get(missing[0], set())
    near = [
        name
        for value in asked[missing[0]]
        for name in difflib.get_close_matches(str(value), sorted(filter(None, known)), 3, 0.4)
    ]
    return f"; the nearest: {', '.join(dict.fromkeys(near))}" if near else ""
