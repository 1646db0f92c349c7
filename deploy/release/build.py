# SPDX-License-Identifier: Apache-2.0
"""The files of a release, from one commit: for each architecture a wheel, a bundle, its SBOM and
packages; for all together one source distribution, image, manifest and chart; and the evidence."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy import ROOT, BuildError, made_at, version
from deploy.architecture import ARCHITECTURES
from deploy.bundle.build import anonymous, checksums, directory_name, pack
from deploy.bundle.build import build as build_bundle
from deploy.debian import Say
from deploy.image.build import build as build_image
from deploy.kubernetes.build import CHART, whole
from deploy.packages.build import build as build_packages
from deploy.release.evidence import evidence, sizes
from deploy.wheel.build import build as build_wheel

PAGE = "docs/releases/{}.md"
CHART_NAME = "ktrace"  # as Chart.yaml has it


def release(into: Path, say: Say) -> None:
    """Removes the earlier contents of `into`."""
    commit = clean_commit(ROOT)
    if not (ROOT / PAGE.format(version())).exists():
        raise BuildError(f"{PAGE.format(version())} is missing: what is new in {version()}?")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    say("the source distribution")
    sdist(into)
    bundles = {}
    for architecture in ARCHITECTURES:
        wheel = build_wheel(architecture, into, say)
        bundle = build_bundle(wheel, architecture, into, say)
        bundles[architecture] = bundle
        say(f"the packages for {architecture.debian}")
        pack(bundle)
        build_packages(bundle, architecture, into)
        shutil.copy(bundle / "sbom.cdx.json", into / f"{directory_name(architecture)}.cdx.json")
    build_image(bundles, into / f"ktrace-{version()}.oci.tar", say)
    for bundle in bundles.values():
        shutil.rmtree(bundle)
    (into / "daemonset.yaml").write_text(whole())
    chart(into)
    measured = sizes(sorted(path for path in into.iterdir() if path.is_file()))
    title = f"# ktrace {version()}: what it rests on\n\nBuilt from commit `{commit}`.\n\n"
    (into / "EVIDENCE.md").write_text(f"{title}{evidence()}\n{measured}")
    checksums(into)


def sdist(into: Path) -> Path:
    """Of what is committed: setuptools would also take what a build has put into the tree. It is
    packed again, because setuptools' archive contains the owner and the time."""
    with tempfile.TemporaryDirectory() as scratch:
        tree, made_in = Path(scratch, "tree"), Path(scratch, "made")
        tree.mkdir()
        command = ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD"]
        archived = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "--extract", "--directory", tree], input=archived, check=True)
        command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(made_in), str(tree)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"building the source distribution: {done.stderr.strip()[-2000:]}")
        (made,) = made_in.iterdir()
        target = into / made.name
        with tarfile.open(made) as told, _archive(target) as archive:
            for member in sorted(told.getmembers(), key=lambda member: member.name):
                archive.addfile(anonymous(member), told.extractfile(member))
    return target


def chart(into: Path) -> Path:
    """Helm's chart as `helm package` names and packs it, without times."""
    target = into / f"{CHART_NAME}-{version()}.tgz"
    with _archive(target) as archive:
        for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
            inside = Path(CHART_NAME, path.relative_to(CHART))
            archive.add(path, inside, filter=anonymous)
    return target


@contextmanager
def _archive(target: Path) -> Iterator[tarfile.TarFile]:
    with (
        target.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=made_at()) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        yield archive


def clean_commit(root: Path) -> str:
    """The commit that is checked out. Raises `BuildError` if the tree differs from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    if changed := git("status", "--porcelain"):
        raise BuildError(f"a release is built of a commit, and this differs from it:\n{changed}")
    return git("rev-parse", "HEAD").strip()
