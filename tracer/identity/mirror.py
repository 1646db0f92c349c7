# SPDX-License-Identifier: Apache-2.0
"""The uid of a static pod, found by the uid of its mirror pod.

The kubelet runs a static pod under a uid made from the manifest, and shows it to the API server as
a mirror pod, which has another uid there. Nothing on the node knows the mirror's uid. Only the API
server does, and `kubectl` can ask it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tracer.kernel.cgroupfs import container_cgroups
from tracer.model.selection import Selection

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECONDS = 3
_HASH = re.compile(r"[0-9a-f]{32}")


def with_static_pods(chosen: Selection, say: Callable[[str], None]) -> Selection:
    """The selection with static pods in place of their mirrors. `say` gets a hint for each uid that
    no pod on this node has."""
    asked = {glob for glob in chosen.globs if UUID.fullmatch(glob)}
    if asked:
        asked -= {cgroup.identity.pod_uid for cgroup in container_cgroups()}
    uids = {mirror: uid for mirror in asked if (uid := static_uid(mirror))}
    for mirror in sorted(asked - uids.keys()):
        say(
            f"ktrace: no pod here has the uid {mirror}; that of a static pod is the annotation"
            " kubernetes.io/config.hash of what kubectl shows"
        )
    return replace(
        chosen,
        pods=tuple(uids.get(glob, glob) for glob in chosen.pods),
        sender_pods=tuple(uids.get(glob, glob) for glob in chosen.sender_pods),
    )


def static_uid(mirror: str) -> str | None:
    """The static pod's uid from the API server; None if it cannot be asked or knows no such
    mirror."""
    import subprocess  # slow

    one = f'.items[?(@.metadata.uid=="{mirror}")]'
    words = (
        *("kubectl", "get", "pods", "--all-namespaces", f"--request-timeout={SECONDS}s"),
        *("-o", rf"jsonpath={{{one}.metadata.annotations.kubernetes\.io/config\.mirror}}"),
    )
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=SECONDS + 1, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if _HASH.fullmatch(done.stdout) else None
