# SPDX-License-Identifier: Apache-2.0
"""A container image that holds a bundle and nothing else: no shell, no distribution.

buildah(1) builds it in a separate store, so this machine's images do not change.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy import BuildError, made_at, version
from deploy.architecture import Architecture
from deploy.bundle.build import anonymous

Say = Callable[[str], None]

HOME = "/opt/ktrace"
PROGRAMS = "/usr/bin"  # `kubectl debug … -- ktrace` looks for it on the PATH
NAME = "localhost/ktrace"
COMMIT = ("--quiet", "--format", "oci", "--disable-compression=false")


def build(bundles: Mapping[Architecture, Path], target: Path, say: Say) -> str:
    """Writes an OCI archive and returns the image's name in it. For several bundles the image is an
    index, from which each node takes its own architecture."""
    if shutil.which("buildah") is None:
        raise BuildError("making an image needs buildah: apt-get install buildah")
    name = f"{NAME}:{version()}"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ktrace-image-") as scratch:
        buildah = _Buildah(Path(scratch))
        options = [*COMMIT, "--timestamp", str(made_at())]
        archive = f"oci-archive:{target}:{name}"
        if len(bundles) == 1:
            ((architecture, bundle),) = bundles.items()
            say(f"the image for {architecture.debian}")
            container = _container(buildah, architecture, bundle)
            buildah("commit", *options, container, archive)
        else:
            buildah("manifest", "create", name)
            for architecture, bundle in bundles.items():
                say(f"the image for {architecture.debian}")
                container = _container(buildah, architecture, bundle)
                buildah("commit", *options, "--manifest", name, container)
            buildah("manifest", "push", "--all", "--format", "oci", name, archive)
        _repack(target, Path(scratch, "repacked"))
    return name


def _repack(archive: Path, scratch: Path) -> None:
    """Without the times at which buildah wrote what is in it."""
    with (
        tarfile.open(archive) as told,
        tarfile.open(scratch, "w", format=tarfile.GNU_FORMAT) as packed,
    ):
        for member in told:
            packed.addfile(anonymous(member), told.extractfile(member))
    shutil.copyfile(scratch, archive)


def _container(buildah: _Buildah, architecture: Architecture, bundle: Path) -> str:
    container = buildah("from", "--arch", architecture.debian, "scratch")
    buildah("copy", container, str(bundle), HOME)
    buildah("copy", container, str(buildah.programs), PROGRAMS)
    licences = "Apache-2.0 AND GPL-2.0-only"
    labels = {"title": "ktrace", "version": version(), "licenses": licences}
    options = [f"--label=org.opencontainers.image.{key}={value}" for key, value in labels.items()]
    options += ["--arch", architecture.debian, "--env", f"PATH={PROGRAMS}"]
    buildah("config", *options, "--cmd", '["ktrace", "--help"]', container)
    return container


class _Buildah:
    """buildah, with its store below one directory. `programs` holds the link on its PATH."""

    def __init__(self, directory: Path) -> None:
        self._options = ["--root", str(directory / "store"), "--runroot", str(directory / "run")]
        self._options += ["--storage-driver", "vfs"]
        self.programs = directory / "bin"
        self.programs.mkdir()
        (self.programs / "ktrace").symlink_to(f"{HOME}/ktrace")

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
