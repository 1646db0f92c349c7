# SPDX-License-Identifier: Apache-2.0
"""Names for pages that leave the house: each pod, namespace, container, process, program and
address has one alias, the same everywhere in the page.

Names stand in fields, and in sentences that were made of them. What is known by a field is replaced
wherever it stands as a word; in sentences, so is everything that looks like a path, an address, an
id, a quotation or a process, whether it is known or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from tracer.model.event import Event, Place, Process

# Keys whose values are left out: they are text or lists that somebody else wrote.
LEFT_OUT = frozenset(("argv", "labels", "cgroup_path", "cgroup", "kubernetes", "hints"))
# Values of these keys are words of ktrace's own or of the kernel's.
OWN_WORDS = frozenset(
    (
        *("kind", "time", "since", "origin", "direction", "reason", "meaning", "state", "queue"),
        *(
            "stage",
            "source",
            "scope",
            "limit_of",
            "code",
            "result",
            "target_state",
            "zone",
            "probe",
        ),
        *("gfp_flags", "gfp_mask", "answered", "certainty", "verdict", "headline"),
        *("machine", "reading", "reasons"),
    )
)
# In sentences: what is known and no plain word is put in front.
_LOOKS = r"""
      (?P<quoted>"[^"]*"|“[^”]*”|(?<![^\s=])'[^']*'(?!\S))
    | (?P<path>(?<![\w.>-])/[^\s,;:()'"\[\]]{2,})
    | (?P<id>\b(?=[0-9a-f-]*\d)(?:[0-9a-f]{12,64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b)
    | (?P<ipv4>(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]))
    | (?P<ipv6>(?<![\w:])[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?![\w:]))
    | (?P<process>[^\s\[\]()]{1,15})(?=\[\d+\])
    | (?P<word>[\w-]+(?:\.[\w-]+)*)
"""
# Kubernetes' own kinds of objects, of which others are named after a company's.
_KINDS = frozenset(
    ("Pod", "ReplicaSet", "StatefulSet", "DaemonSet", "Deployment", "Job", "CronJob", "Node")
)
_DEVICE_NUMBER = re.compile(r"\d+:\d+")
_WORD = re.compile(r"[\w-]+(?:\.[\w-]+)*")


class Aliases:
    """`learn` everything first; then `text` and `json` replace."""

    def __init__(self) -> None:
        self._aliases: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._known: re.Pattern[str] | None = None

    def learn_event(self, event: Event) -> None:
        self.learn_places((event.place, event.by_place))
        for process in (event.about, event.by):
            self._learn_value("", process)
        self._learn_value("", event.body)
        for other in event.because:
            self.learn_event(other)

    def learn_places(self, places: Iterable[Place | None]) -> None:
        for place in places:
            self._learn_value("", place)

    def learn(self, sort: str, name: str | None) -> None:
        """A name of this sort."""
        if name and name not in self._aliases:
            self._counts[sort] = self._counts.get(sort, 0) + 1
            self._aliases[name] = f"{sort}-{self._counts[sort]}"
            self._known = None

    def text(self, text: str) -> str:
        """A sentence, or a field's value."""
        if text in self._aliases:
            return self._aliases[text]
        return self._pattern().sub(self._of_look, text)

    def json(self, value: Any, key: str = "") -> Any:
        """The same of what JSON holds."""
        if isinstance(value, str):
            return value if key in OWN_WORDS else self.text(value)
        if isinstance(value, list):
            return [self.json(inner, key) for inner in value]
        if isinstance(value, dict):
            return {
                name: None if name in LEFT_OUT else self.json(inner, name)
                for name, inner in value.items()
            }
        return value

    def _learn_value(self, key: str, value: Any) -> None:
        if isinstance(value, Process):
            self.learn("process", value.comm)
            self.learn("program", value.exe)
            for _, comm in value.ancestry:
                self.learn("process", comm)
            self.learn_places((value.place, value.init_place))
        elif isinstance(value, Place):
            if value.pod:
                self.learn("namespace", value.pod.namespace)
                self.learn("pod", value.pod.name)
                self.learn("id", value.pod.uid)
            if value.container:
                self.learn("container", value.container.name)
                self.learn("id", value.container.id)
                if not _WORD.fullmatch(value.container.runtime or "x"):
                    self.learn("runtime", value.container.runtime)
            self.learn("id", value.identity.pod_uid)
            self.learn("id", value.identity.container_id)
        elif isinstance(value, Mapping) and key == "kubernetes":
            self._learn_kubernetes(value)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                self._learn_value(name, inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self._learn_value(key, inner)
        elif isinstance(value, str) and key == "address":
            self.learn("address", value)
        elif isinstance(value, str) and key == "comm":
            self.learn("process", value)
        elif isinstance(value, str) and key == "container":
            self.learn("container", value)
        elif isinstance(value, str) and key == "device" and not _DEVICE_NUMBER.fullmatch(value):
            self.learn("interface", value)

    def _learn_kubernetes(self, told: Mapping[str, Any]) -> None:
        """Of its words, those that sentences repeat without quotes."""
        for event in told.get("events") or ():
            kind, name = event["object"]["kind"], event["object"]["name"]
            self.learn("pod" if kind == "Pod" else "owner", name)
            if kind not in _KINDS:
                self.learn("kind", kind)
            self.learn("container", event["container"])
        for container in (told.get("pod") or {}).get("containers") or ():
            self.learn("container", container["name"])
            for action in (*(one["action"] for one in container["probes"]), container["pre_stop"]):
                self.learn("action", action)

    def _pattern(self) -> re.Pattern[str]:
        if self._known is None:
            odd = sorted(
                (n for n in self._aliases if not _WORD.fullmatch(n)), key=len, reverse=True
            )
            known = "|".join(re.escape(name) for name in odd) or r"(?!)"
            self._known = re.compile(
                rf"(?P<known>(?<![\w-])(?:{known})(?![\w-])) | {_LOOKS}", re.VERBOSE
            )
        return self._known

    def _of_look(self, found: re.Match[str]) -> str:
        """What looks like a name gets an alias also if it is not known as one."""
        sort, text = found.lastgroup, found[0]
        if text in self._aliases:
            return self._aliases[text]
        if sort == "quoted":
            return "“…”"
        is_address = sort in ("ipv4", "ipv6") and _is_address(text)
        if not is_address and sort not in ("path", "id", "process"):
            return text
        sort = "address" if is_address else sort or ""
        self._counts[sort] = self._counts.get(sort, 0) + 1
        alias = self._aliases[text] = f"{sort}-{self._counts[sort]}"
        return alias


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
