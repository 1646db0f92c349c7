# SPDX-License-Identifier: Apache-2.0
"""One cluster for all tests that need one. What it is built from may take minutes to make, once:
that is done before the first test, and none of their time limits counts it."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from deploy.architecture import wanted
from deploy.debian import FetchError
from deploy.image import build as image
from tests.cluster import build
from tests.cluster.bed import Bed
from tests.cluster.build import ClusterError
from tests.cluster.scene import pids
from tests.support import bundle
from tests.support.incidents import mishap


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    bundle.build_if_wanted(session.items, "ktrace_image")
    if any("bed" in getattr(item, "fixturenames", ()) for item in session.items):
        try:
            build.binaries(print)
        except (ClusterError, FetchError) as error:
            session.config.stash[_failure] = error


_failure = pytest.StashKey[Exception]()


@pytest.fixture(scope="session")
def ktrace_image(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of ktrace's image, which is on the node then."""
    archive = tmp_path_factory.mktemp("image") / "ktrace.oci.tar"
    name = image.build({wanted(): bundle.bundle()}, archive, lambda words: None)
    assert archive.stat().st_size < 28_000_000
    bed.import_image(archive)
    return name


@pytest.fixture(scope="module")
def victim(bed: Bed) -> Iterator[int]:
    """The pid of a pod's only process, which ignores what is sent to it."""
    bed.kubectl("run", "victim", f"--image={bed.image}", "--", "sleep", "100000")
    bed.kubectl("wait", "--for=condition=Ready", "pod/victim", "--timeout=100s")
    uid = bed.get("pod", "victim")["metadata"]["uid"]
    (pid,) = (pid for pid in pids(uid) if psutil.Process(pid).cmdline() == ["sleep", "100000"])
    yield pid
    bed.kubectl("delete", "pod", "victim", "--now")


@pytest.fixture(scope="session")
def bed(pytestconfig: pytest.Config) -> Iterator[Bed]:
    if failure := pytestconfig.stash.get(_failure, None):
        raise failure
    with Bed(print, extra_files={"/mishap": mishap()}) as running:
        yield running
