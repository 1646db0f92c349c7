# SPDX-License-Identifier: Apache-2.0
"""A container's id alone, as crictl, docker and the kubelet write it."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_ID = re.compile(r"(?:(?P<runtime>containerd|docker|cri-o|podman|rkt)://)?(?P<id>[0-9a-f]{64})")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = _ID.fullmatch(line.text)
    if not found:
        return None
    lines = [
        "64 hexadecimal digits: a container's id, or a sandbox's"
        + ("" if found["runtime"] else "; an image's and a layer's look the same"),
        f"  id: {found['id']}",
    ]
    lines += [f"  runtime: {found['runtime']}"] if found["runtime"] else []
    return [*lines, f"its pod: crictl inspect {found['id']}, or ktrace pods on the node"]


KIND = Kind(_read, rank=20)
