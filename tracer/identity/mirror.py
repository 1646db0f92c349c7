# SPDX-License-Identifier: Apache-2.0
"""The uid of a static pod, from that of its mirror.

The kubelet runs a static pod under a uid that it makes from the manifest, and tells the API server
of it by a mirror pod, which has a uid of its own there. Nothing on the node knows that one: only
the API server can say, and `kubectl` knows how to ask it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace

from tracer.kernel.cgroupfs import container_cgroups
from tracer.model.selection import Selection

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECONDS = 3
_HASH = re.compile(r"[0-9a-f]{32}")


def with_static_pods(chosen: Selection, say: Callable[[str], None]) -> Selection:
    """With the static pod instead of its mirror. Of uids that no pod on this node has, `say` is
    told what that may mean."""
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
    """What the API server says; None if it cannot be asked, or knows no such mirror."""
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
