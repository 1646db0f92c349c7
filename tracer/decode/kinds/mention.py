# SPDX-License-Identifier: Apache-2.0
"""A line that names a pod's or container's cgroup and is otherwise unknown."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_PATH = re.compile(
    r"(?<![\w./:-])[\w.-]{0,64}(?:/[\w.@:-]{1,255}){0,16}?/?"
    r"(?:kubepods|docker[-/]|crio-|libpod-|cri-containerd|k8s\.io/)[\w./@:-]{10,1024}"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = _PATH.search(line.text)
    if not found:
        return None
    identity = whose.identify(found[0])
    if identity.pod_uid is None and identity.container_id is None:
        return None
    return ["what the line says ktrace does not know; it names", *whose.facts(identity)]


KIND = Kind(
    _read,
    marks=("kubepods", "docker", "crio-", "libpod-", "cri-containerd", "k8s.io/"),
    rank=99,
)
