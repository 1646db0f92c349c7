# SPDX-License-Identifier: Apache-2.0
"""A container image that holds a bundle and nothing else: no shell, no distribution.

buildah(1) makes it in a store of its own, so that nothing of this machine's images changes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy import BuildError
from deploy.bundle.build import made_at

Say = Callable[[str], None]

HOME = "/opt/ktrace"
PROGRAMS = "/usr/bin"  # `kubectl debug … -- ktrace` looks for it on the PATH
NAME = "localhost/ktrace"


def build(bundle: Path, version: str, target: Path, say: Say) -> str:
    """Writes an OCI archive and returns the image's name in it."""
    if shutil.which("buildah") is None:
        raise BuildError("making an image needs buildah: apt-get install buildah")
    say("the image")
    name = f"{NAME}:{version}"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ktrace-image-") as scratch:
        buildah = _Buildah(Path(scratch))
        container = buildah("from", "scratch")
        programs = Path(scratch, "bin")
        programs.mkdir()
        (programs / "ktrace").symlink_to(f"{HOME}/ktrace")
        buildah("copy", container, str(bundle), HOME)
        buildah("copy", container, str(programs), PROGRAMS)
        labels = {"title": "ktrace", "version": version, "licenses": "Apache-2.0 AND GPL-2.0-only"}
        options = [
            word
            for key, value in labels.items()
            for word in ("--label", f"org.opencontainers.image.{key}={value}")
        ]
        buildah(
            *("config", "--env", f"PATH={PROGRAMS}", "--cmd", '["ktrace", "--help"]', *options),
            container,
        )
        buildah(
            *("commit", "--quiet", "--timestamp", str(made_at()), "--format", "oci"),
            *("--disable-compression=false", container, f"oci-archive:{target}:{name}"),
        )
    return name


class _Buildah:
    """With its store below one directory."""

    def __init__(self, directory: Path) -> None:
        self._options = ["--root", str(directory / "store"), "--runroot", str(directory / "run")]
        self._options += ["--storage-driver", "vfs"]

    def __call__(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *self._options, command, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"buildah {command}: {done.stderr.strip()}")
        return done.stdout.strip()
