# SPDX-License-Identifier: Apache-2.0
"""Events and pods as Kubernetes' API writes them, v1 Events from 1.20 on and their newer members.

Every member may be missing, of another type or hostile: what is not of the form that it should have
counts as missing, and texts are cut. Of a pod's specification only probes, hooks and the grace
period are read: environments and annotations are nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from tracer.model.kubernetes import (
    COMPONENT,
    NS,
    Fact,
    KubeContainer,
    KubeEnd,
    KubeEvent,
    KubePod,
    KubeProbe,
)
from tracer.model.names import MAX_NAME, normalise_uid

MAX_MESSAGE = 1024
MAX_CONTAINERS = 64
MAX_SECONDS = 1 << 31
PROBES = ("startup", "liveness", "readiness")
# The kubelet's copy of a static pod has another uid; the containers have this one.
MIRROR = "kubernetes.io/config.mirror"
_CONTAINER = re.compile(r"^spec\.(?:init|ephemeral)?[cC]ontainers\{(.{1,253})\}$")
# What controllers say of pods that they delete.
_DELETED = re.compile(r"^(?:Deleted pod: |delete Pod )(\S{1,253})")


def facts(value: object) -> Iterator[Fact]:
    """The facts in an object of the API or in a list of them. Objects of other kinds have none."""
    for one in _items(value):
        fact = fact_of(one)
        if fact is not None:
            yield fact


def fact_of(value: object) -> Fact | None:
    told = mapping(value)
    kind = told.get("kind")
    if kind == "Event" or (kind is None and "involvedObject" in told):
        return _event(told)
    return _pod(told) if kind == "Pod" else None


def _items(value: object) -> Iterator[object]:
    told = mapping(value)
    items = told.get("items")
    if not isinstance(items, list):
        yield value
        return
    kind = str(told.get("kind", "")).removesuffix("List")
    for item in items:  # the API leaves the kind out in a list of one kind
        whole = isinstance(item, dict) and "kind" not in item and kind in ("Event", "Pod")
        yield {**item, "kind": kind} if whole else item


def mapping(value: object) -> Mapping[str, Any]:
    """What should be an object; an empty one instead of anything else."""
    return value if isinstance(value, dict) else {}


def _event(told: Mapping[str, Any]) -> KubeEvent | None:
    meta, source = mapping(told.get("metadata")), mapping(told.get("source"))
    about = mapping(told.get("involvedObject")) or mapping(told.get("regarding"))
    reason, name = _word(told.get("reason")), _word(about.get("name"))
    component = _word(source.get("component")) or _word(told.get("reportingComponent"))
    if not reason or not name or component == COMPONENT:
        return None
    kind = _word(about.get("kind"))
    message = _text(told.get("message")) or _text(told.get("note"))
    created = _moment(told.get("eventTime")) or _moment(meta.get("creationTimestamp"))
    first = _moment(told.get("firstTimestamp")) or created or 0
    series = mapping(told.get("series"))
    last = _moment(series.get("lastObservedTime")) or _moment(told.get("lastTimestamp")) or first
    container = _CONTAINER.match(_word(about.get("fieldPath")))
    deleted = _DELETED.match(message) if kind != "Pod" else None
    return KubeEvent(
        uid=_word(meta.get("uid")) or f"{name} {reason} {message[:200]}",
        reason=reason,
        message=message,
        component=component,
        kind=kind,
        namespace=_word(about.get("namespace")) or _word(meta.get("namespace")),
        name=name,
        object_uid=normalise_uid(_word(about.get("uid"))),
        pod=deleted[1] if deleted else name if kind == "Pod" else "",
        container=container[1] if container else "",
        count=max(1, _number(series.get("count")) or _number(told.get("count")) or 1),
        first_ns=first or last,
        last_ns=max(first, last),
    )


def _pod(told: Mapping[str, Any]) -> KubePod | None:
    meta, spec, status = (mapping(told.get(key)) for key in ("metadata", "spec", "status"))
    uid = _word(mapping(meta.get("annotations")).get(MIRROR)) or _word(meta.get("uid"))
    name = _word(meta.get("name"))
    if not uid or not name:
        return None
    deletion, grace = (
        _moment(meta.get("deletionTimestamp")),
        _number(meta.get("deletionGracePeriodSeconds")),
    )
    return KubePod(
        uid=normalise_uid(uid),
        namespace=_word(meta.get("namespace")),
        name=name,
        node=_word(spec.get("nodeName")),
        phase=_word(status.get("phase")),
        reason=_word(status.get("reason")),
        message=_text(status.get("message")),
        grace=_number(spec.get("terminationGracePeriodSeconds")),
        deleted_ns=None if deletion is None else deletion - (grace or 0) * NS,
        deletion_grace=grace,
        containers=tuple(_containers(spec, status)),
    )


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[KubeContainer]:
    states = {
        _word(one.get("name")): one
        for key in ("initContainerStatuses", "containerStatuses")
        for one in _dicts(status.get(key))
    }
    wanted = {
        _word(one.get("name")): one
        for key in ("initContainers", "containers")
        for one in _dicts(spec.get(key))
    }
    for name in list(dict.fromkeys((*wanted, *states)))[:MAX_CONTAINERS]:
        one, state = wanted.get(name, {}), states.get(name, {})
        now, before = mapping(state.get("state")), mapping(state.get("lastState"))
        waiting = mapping(now.get("waiting"))
        hook = mapping(mapping(one.get("lifecycle")).get("preStop"))
        yield KubeContainer(
            name=name,
            restarts=_number(state.get("restartCount")) or 0,
            ready=state.get("ready") is True,
            waiting=_word(waiting.get("reason")),
            message=_text(waiting.get("message")),
            ended=_end(now.get("terminated")) or _end(before.get("terminated")),
            probes=tuple(
                _probe(what, mapping(one.get(f"{what}Probe")))
                for what in PROBES
                if mapping(one.get(f"{what}Probe"))
            ),
            pre_stop=_how(hook) if hook else "",
        )


def _end(value: object) -> KubeEnd | None:
    told = mapping(value)
    code = _number(told.get("exitCode"))
    if code is None:
        return None
    return KubeEnd(_word(told.get("reason")), code, _moment(told.get("finishedAt")) or 0)


def _probe(what: str, told: Mapping[str, Any]) -> KubeProbe:
    return KubeProbe(
        what,
        _how(told),
        _number(told.get("periodSeconds")) or 10,
        _number(told.get("timeoutSeconds")) or 1,
        _number(told.get("failureThreshold")) or 3,
    )


def _how(told: Mapping[str, Any]) -> str:
    """A probe's or hook's action in words. `ktrace` is such words in a recording."""
    if words := _text(told.get("ktrace")):
        return words[:MAX_NAME]
    http, tcp, grpc = (mapping(told.get(key)) for key in ("httpGet", "tcpSocket", "grpc"))
    command = mapping(told.get("exec")).get("command")
    if http:
        return f"http-get of port {_port(http)}, {_word(http.get('path')) or '/'}"
    if tcp:
        return f"tcp-socket of port {_port(tcp)}"
    if grpc:
        return f"grpc of port {_port(grpc)}"
    if isinstance(command, list):
        return " ".join(_text(word) for word in command[:64])[:MAX_NAME]
    return next((_word(key) for key in told if mapping(told.get(key))), "")


def _port(told: Mapping[str, Any]) -> str:
    port = told.get("port")
    return str(port) if isinstance(port, int) else _word(port)


def _moment(value: object) -> int | None:
    """Nanoseconds since 1970, of whole seconds: fractions are cut, as most have none."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    found = re.match(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)$", value)
    if found is None:
        return None
    try:
        when = datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00"))
        return int((when - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()) * NS
    except (ValueError, OverflowError):
        return None


def _number(value: object) -> int | None:
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and isinstance(value, int) and 0 <= value < MAX_SECONDS else None


def _word(value: object) -> str:
    """A short text that Kubernetes chose or checked; a longer one is none."""
    return value if isinstance(value, str) and len(value) <= 2 * MAX_NAME else ""


def _text(value: object) -> str:
    """Any text, on one line."""
    if not isinstance(value, str):
        return ""
    words = " ".join(value[: 4 * MAX_MESSAGE].split())
    return words if len(words) <= MAX_MESSAGE else f"{words[: MAX_MESSAGE - 1]}…"


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [mapping(one) for one in value[:MAX_CONTAINERS]] if isinstance(value, list) else []
