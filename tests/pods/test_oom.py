# SPDX-License-Identifier: Apache-2.0
"""OOM kills in real pods: of a container's first process, of a child that Kubernetes does not show,
and at the limit of the whole pod."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.containerd import PodHandle
from tests.support.ktrace import Ktrace
from tracer.kernel.hierarchies import hierarchies

MIB = 1 << 20
LIMIT = 32 * MIB
DD = "dd if=/dev/zero of=/dev/null bs=64M count=1"


def test_the_init_of_a_container(web: PodHandle, cri: tuple[str, str]) -> None:
    with Ktrace("oom", "-p", "shop/web-0", *cri) as ktrace:
        container = web.run("app", DD.split(), memory_limit=LIMIT)
        assert container.wait_exit() == 137
        (event,) = ktrace.stop()
    assert event["kind"] == "oom"
    assert event["pod"] == event["victim"]["pod"]
    assert event["pod"]["name"] == "web-0"
    assert event["container"]["id"] == container.id
    assert event["container"]["name"] == "app"
    assert event["victim"]["argv"] == DD.split()
    assert event["victim"]["pid_in_pod"] == 1
    assert event["victim"]["is_container_init"] is True
    assert event["victim"]["oom_score_adj"] == 999
    assert 28 * MIB <= event["victim"]["anon_bytes"] <= LIMIT + MIB
    assert event["trigger"]["pid"] == event["victim"]["pid"]
    check_limit(event, "container", container.cgroup)


def test_a_child(web: PodHandle, cri: tuple[str, str]) -> None:
    """The container goes on, and Kubernetes shows nothing."""
    script = f"{DD}; echo $? > /dev/null; exec sleep 1000"
    with Ktrace("oom", "-p", "shop/web-0", "--count", "1", *cri) as ktrace:
        container = web.run("app", ["sh", "-c", script], memory_limit=LIMIT)
        (event,) = ktrace.wait()
    assert container.status().state == "running"
    assert event["container"]["id"] == container.id
    assert event["victim"]["comm"] == "dd"
    assert event["victim"]["pid"] != container.pid
    assert event["victim"]["is_container_init"] is False
    check_limit(event, "container", container.cgroup)


def test_the_limit_of_the_pod(web: PodHandle, cri: tuple[str, str]) -> None:
    """The container has none of its own."""
    with limited(web), Ktrace("oom", "-p", "shop/web-0", *cri) as ktrace:
        container = web.run("app", DD.split())
        assert container.wait_exit() == 137
        (event,) = ktrace.stop()
    assert event["container"]["id"] == container.id
    assert event["victim"]["is_container_init"] is True
    check_limit(event, "pod", web.cgroup)


def test_a_table(web: PodHandle, cri: tuple[str, str]) -> None:
    """A line that stands out."""
    with Ktrace("oom", "--no-headers", "-p", "web-0", *cri, output="table") as ktrace:
        web.run("app", DD.split(), memory_limit=LIMIT).wait_exit()
        ktrace.signal(2)
        assert ktrace.exit_code() == 0
        (line,) = ktrace.output.decode().splitlines()
    words = line.split()
    assert words[1] == "!"
    assert words[2].startswith("dd[")
    assert "init" in words
    assert "shop/web-0" in words


def check_limit(event: dict[str, Any], limit_of: str, path: str) -> None:
    assert event["scope"] == "cgroup"
    assert event["limit_of"] == limit_of
    assert event["cgroup_path"] == path
    assert event["limit_bytes"] == LIMIT
    assert LIMIT - MIB <= event["usage_bytes"] <= LIMIT
    assert event["order"] == 0
    assert event["gfp_flags"]
    assert event["members"] == []
    if event["largest"] is not None:
        assert event["largest"][0]["comm"] == "dd"


@contextmanager
def limited(pod: PodHandle) -> Iterator[None]:
    """As a kubelet does when every container of a pod has a limit."""
    for hierarchy in hierarchies():
        directory = Path(hierarchy.mount + pod.cgroup)
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (directory / name).exists():
                (directory / name).write_text(str(LIMIT))
    yield
