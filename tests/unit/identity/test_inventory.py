# SPDX-License-Identifier: Apache-2.0
"""The checks that what somebody asked for is on this node."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tracer.identity import inventory
from tracer.identity.cri import CriSource
from tracer.identity.inventory import check_globs, check_labels, check_pids, plain_container
from tracer.identity.logs import LogDirectorySource
from tracer.identity.names import Arrivals, NameService
from tracer.model.cgroup import CgroupIdentity
from tracer.model.errors import NoSuchPod, NoSuchProcess, UsageError
from tracer.model.names import Container, Names, NameSourceError, Pod


def test_processes_that_run() -> None:
    check_pids({os.getpid(), os.getppid(), 1})


def test_a_process_that_is_gone() -> None:
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    with pytest.raises(NoSuchProcess, match=f"no process {gone} is running") as refused:
        check_pids({os.getpid(), gone})
    assert refused.value.exit_code == 5
    assert "--wait" in str(refused.value.remedy)


def test_a_thread_is_told_from_its_process() -> None:
    told, done = threading.Event(), threading.Event()
    threads: list[int] = []

    def run() -> None:
        threads.append(threading.get_native_id())
        told.set()
        done.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert told.wait(30)
        with pytest.raises(NoSuchProcess, match=f"a thread of process {os.getpid()}") as refused:
            check_pids(threads)
        assert refused.value.remedy == f"select that: --pid {os.getpid()}"
    finally:
        done.set()
        thread.join()


def test_labels_need_a_source_that_knows_them() -> None:
    with pytest.raises(UsageError, match="labels") as refused:
        check_labels([LogDirectorySource()])
    assert "--cri-socket" in str(refused.value.remedy)
    check_labels([CriSource("/run/none.sock"), LogDirectorySource()])


class Source:
    """Log directories that know some pods, or a runtime that does not answer."""

    def __init__(self, name: str, pods: Sequence[Pod] | None) -> None:
        self.name = name
        self._pods = pods

    def snapshot(self) -> Names:
        if self._pods is None:
            raise NameSourceError("did not answer in time")
        return Names({pod.uid: pod for pod in self._pods})

    def close(self) -> None: ...


class Silent(Source):
    """A runtime that says nothing until it is left."""

    def __init__(self) -> None:
        super().__init__("cri /run/silent.sock", None)
        self._left = threading.Event()

    def snapshot(self) -> Names:
        assert self._left.wait(60)
        return super().snapshot()

    def close(self) -> None:
        self._left.set()


class Cgroup:
    def __init__(self, uid: str, *processes: int) -> None:
        self.identity = CgroupIdentity(uid, uid * 8)
        self._processes = list(processes)

    def own_processes(self) -> list[int]:
        return self._processes


WEB, DEAD = Pod("u1", "shop", "web-0"), Pod("u2", "shop", "old-0")
RUNTIME, LOGS = Source("cri /run/x.sock", None), Source("log directories", [WEB, DEAD])


@contextmanager
def node(
    monkeypatch: pytest.MonkeyPatch, sources: Sequence[Source], *cgroups: Cgroup
) -> Iterator[tuple[Names, Mapping[str, str]]]:
    monkeypatch.setattr(inventory, "container_cgroups", lambda: list(cgroups))
    arrivals = Arrivals()
    service = NameService(sources, arrivals.put)
    service.start()
    yield inventory.first_names(service, arrivals), service.failures
    service.stop()


def test_a_pod_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead are not on this node any more."""
    cgroups = [Cgroup("u1", 7), Cgroup("u2"), Cgroup("u3", 9)]
    with (
        node(monkeypatch, [LOGS], *cgroups) as asked,
        pytest.raises(NoSuchPod, match="no pod 'shop/xyz' on this node; 2 pods are on") as refused,
    ):
        check_globs(("shop/xyz",), *asked)
    assert "--wait" in str(refused.value.remedy)


@pytest.mark.parametrize("source", [RUNTIME, Silent()])
def test_whoever_gave_no_names_is_told(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(source, Silent):
        monkeypatch.setattr(inventory, "PATIENCE", 0.01)
    monkeypatch.setattr(inventory, "name_sources", lambda socket: [source])
    told: list[str] = []
    assert inventory.current_names(None, told.append) == Names()
    how = "did not answer in time" if source is RUNTIME else "has not answered for 0.01 s"
    assert told == [f"names may be missing: {source.name}: {how}"]


def test_a_number_may_be_meant_as_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(monkeypatch, [LOGS]) as asked, pytest.raises(NoSuchPod) as refused:
        check_globs((str(os.getpid()),), *asked)
    assert f"--pid {os.getpid()}" in str(refused.value.remedy)


def test_the_nearest_pods_live(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        node(monkeypatch, [LOGS], Cgroup("u1", 7), Cgroup("u2")) as asked,
        pytest.raises(NoSuchPod, match=r"the nearest: shop/web-0$"),
    ):
        check_globs(("shop/web-1",), *asked)


def test_a_silent_runtime_is_not_a_missing_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(monkeypatch, [RUNTIME, LOGS], Cgroup("u1", 7), Cgroup("u3", 9)) as asked:
        why, which = check_globs(("shop/lb",), *asked)
    assert why == "names and labels may be missing: cri /run/x.sock: did not answer in time"
    assert which.startswith(
        "'shop/lb' may be one of the pods here of which only the uid is known (1 are)"
    )


def test_a_silent_runtime_of_which_logs_know_every_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(monkeypatch, [RUNTIME, LOGS], Cgroup("u1", 7)) as asked:
        assert len(check_globs(("shop/web-0",), *asked)) == 1
        with pytest.raises(NoSuchPod, match="did not answer in time"):
            check_globs(("shop/lb",), *asked)


def test_labels_of_a_silent_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(monkeypatch, [RUNTIME, LOGS]) as asked:
        assert "did not answer in time" in check_globs((), *asked)[0]
    with node(monkeypatch, [LOGS]) as asked:
        assert check_globs((), *asked) == []


# Containers in no pod


def test_the_name_of_a_container_in_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name or a glob; neither one in a pod, nor one whose name nobody knows."""
    alone, nameless = CgroupIdentity(None, "a" * 64), CgroupIdentity(None, "b" * 64)
    podmans, in_pod = CgroupIdentity(None, "c" * 64), CgroupIdentity("u1", "d" * 64)
    cgroups = [SimpleNamespace(identity=i) for i in (nameless, podmans, in_pod, alone)]
    monkeypatch.setattr(inventory, "container_cgroups", lambda: cgroups)
    names = Names(
        containers={
            "a" * 64: Container("a" * 64, name="db"),
            "b" * 64: Container("b" * 64),
            "c" * 64: Container("c" * 64, name="cache", pod_uid="p1"),
            "d" * 64: Container("d" * 64, name="web"),
        }
    )
    assert plain_container("db", names) == "db"
    assert plain_container("d*", names) == "db"
    for name in ("cache", "web", "DB", "d", "", "shop/db"):
        assert plain_container(name, names) is None
