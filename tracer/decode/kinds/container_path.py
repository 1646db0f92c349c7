# SPDX-License-Identifier: Apache-2.0
"""A path of a file system that names a pod or container: a runtime's state, a log, a volume."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_UID = r"(?P<uid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})"
_ID = r"(?P<id>[0-9a-f]{64})"
_NAME = r"[a-z0-9.-]{1,253}"

# The words for each form of path; the named groups are facts.
_FORMS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            rf"/var/log/pods/(?P<namespace>{_NAME})_(?P<pod>{_NAME})_{_UID}(?:/(?P<name>{_NAME}))?",
            "a log that the kubelet keeps",
        ),
        (
            rf"/var/log/containers/(?P<pod>{_NAME})_(?P<namespace>{_NAME})_(?P<name>{_NAME})-{_ID}",
            "a link to a container's log",
        ),
        (rf"/kubelet/pods/{_UID}(?:/|$)", "a folder of the kubelet for a pod"),
        (
            rf"/containerd/[\w./-]{{0,128}}/(?P<space>[\w.-]{{1,64}})/{_ID}",
            "a folder of containerd",
        ),
        (rf"/(?:docker|moby)/[\w./-]{{0,64}}containers/{_ID}", "a folder of Docker"),
        (rf"/(?:docker|moby)/(?:[\w.-]{{1,64}}/){{0,4}}{_ID}", "a folder of Docker or its runc"),
        (rf"/overlay-containers/{_ID}", "a folder of Podman or CRI-O"),
        (rf"/(?:crio|runc|crun|libpod)/(?:[\w.-]{{1,64}}/){{0,4}}{_ID}", "a runtime's folder"),
        (rf"/(?:kata|vc|vc/sbs|vc/vm)/(?:[\w.-]{{1,64}}/){{0,4}}{_ID}", "a folder of Kata"),
    )
)
_LAYER = re.compile(r"/(?:overlay2|overlay|image|layerdb|aufs|sha256)/")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    path = line.text
    if not path.startswith("/") or len(path) > whose.MAX_PATH or re.search(r"[\n\0]|: ", path):
        return None
    for form, words in _FORMS:
        found = form.search(path)
        if found and not _LAYER.search(path[: found.end()]):
            return _told(words, {k: v for k, v in found.groupdict().items() if v})
    if _LAYER.search(path) and re.search(r"[0-9a-f]{32}", path):
        return ["a path in a layer of images, whose name is no container's"]
    loose = re.search(rf"(?:^|[/._-]){_ID}(?=[/._-]|$)", path)
    if loose:
        return _told("a file's path", {"id": loose["id"]})
    if re.search(r"\s", path):
        return None
    return ["a file's path, which names no pod and no container that ktrace knows the form of"]


def _told(words: str, found: dict[str, str]) -> Answer:
    lines = [f"{words}, not a cgroup"]
    if "pod" in found and "namespace" in found:
        lines.append(f"  pod: {found['namespace']}/{found['pod']}")
    if "uid" in found:
        lines.append(f"  uid: {found['uid']}")
    if "name" in found:
        lines.append(f"  container's name: {found['name']}")
    if "id" in found:
        lines.append(f"  container: {found['id']}")
    if found.get("space"):
        lines.append(f"  namespace of containerd: {found['space']}")
    return lines + (whose.names(found["uid"]) if "uid" in found and "pod" not in found else [])


KIND = Kind(_read, marks=("/",), rank=85)
