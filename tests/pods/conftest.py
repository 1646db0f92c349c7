# SPDX-License-Identifier: Apache-2.0
"""One containerd for all tests with pods, and what they ask ktrace with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.containerd import Containerd, PodHandle


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    with Containerd() as running:
        yield running


@pytest.fixture
def cri(containerd: Containerd) -> tuple[str, str]:
    """The option that points ktrace to this containerd."""
    return "--cri-socket", str(containerd.socket)


@pytest.fixture
def web(containerd: Containerd) -> Iterator[PodHandle]:
    pod = containerd.run_pod("web-0", namespace="shop", labels={"app": "web", "tier": "front"})
    yield pod
    pod.remove()


@pytest.fixture
def other(containerd: Containerd) -> Iterator[PodHandle]:
    """A pod that shares the host's pid namespace, so that it can signal others."""
    pod = containerd.run_pod("agent-0", namespace="system", host_pid=True, qos="besteffort")
    yield pod
    pod.remove()
