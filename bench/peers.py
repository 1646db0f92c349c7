# SPDX-License-Identifier: Apache-2.0
"""The programs beside which ktrace is measured, installed when they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {
    "bpftrace": "bpftrace",
    "sigsnoop": "libbpf-tools",
    "killsnoop-bpfcc": "bpfcc-tools",
    "dropwatch": "dropwatch",
}


def install(*programs: str) -> None:
    """By apt. Raises SystemExit with a sentence if that fails."""
    missing = [name for name in programs if shutil.which(name) is None]
    if not missing:
        return
    packages = sorted({PACKAGES[name] for name in missing})
    print(f"bench: installing {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends"]):
        command = ["apt-get", *words, *(packages if words[0] == "install" else ())]
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.DEVNULL, check=False
            ).returncode
        except FileNotFoundError:
            done = 1
        if done and words[0] == "install":
            break
    missing = [name for name in missing if shutil.which(name) is None]
    if missing:
        raise SystemExit(
            f"there is no {' and no '.join(missing)} to measure beside, and apt-get cannot install"
            f" the package {' '.join(packages)}"
        )
