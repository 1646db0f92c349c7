# SPDX-License-Identifier: Apache-2.0
"""The names service with sources that are slow, dead, hanging or broken."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tracer.identity import cri, names
from tracer.identity.cri import CriSource
from tracer.identity.docker import DockerSource
from tracer.identity.logs import LogDirectorySource
from tracer.identity.names import Arrivals, NameService, default_sources, merge
from tracer.model.names import Container, Names, NameSource, NameSourceError, Pod

# Nothing here takes that long; a test that waits for it has failed.
LONG = 60.0


class FakeSource:
    def __init__(self, name: str, *answers: Names | Exception) -> None:
        self.name = name
        self.answers = list(answers)
        self.asked = threading.Semaphore(0)
        self.times: list[float] = []
        self.open = threading.Event()
        self.open.set()
        self.closed = threading.Event()

    def snapshot(self) -> Names:
        """Gives one answer after the other, and the last one from then on."""
        self.times.append(time.monotonic())
        answer = self.answers[min(len(self.times), len(self.answers)) - 1]
        self.asked.release()
        assert self.open.wait(LONG)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed.set()
        self.open.set()


def test_answers_that_nobody_takes_are_one() -> None:
    """Each name is in it once, with the latest value. A pod that was there for a moment is, too."""
    waiting = Arrivals()
    for number in range(1000):
        own = Pod(f"u{number % 3}", "shop", f"web-{number}")
        waiting.put(Names({own.uid: own}, {"c": Container("c", name=f"{number}")}))
    taken = waiting.get()
    assert {uid: pod.name for uid, pod in taken.pods.items()} == {
        "u0": "web-999",
        "u1": "web-997",
        "u2": "web-998",
    }
    assert taken.containers == {"c": Container("c", name="999")}
    assert waiting.empty()


class Listener:
    """Remembers what on_names was told, and can be waited for."""

    def __init__(self) -> None:
        self.told: list[Names] = []
        self._changed = threading.Condition()

    def __call__(self, known: Names) -> None:
        with self._changed:
            self.told.append(known)
            self._changed.notify_all()

    def wait_for(self, accept: Callable[[Names], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.told and accept(self.told[-1]), LONG)


@contextmanager
def running(
    *sources: NameSource, listener: Callable[[Names], None] | None = None, **times: float
) -> Iterator[NameService]:
    service = NameService(sources, listener or Listener(), **{"spacing": 0.0} | times)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def only_pod(uid: str, name: str | None = "web") -> Names:
    return Names({uid: Pod(uid, "default", name)})


def settle(service: NameService) -> None:
    assert service.wait(service.refresh(), LONG)


def test_slow_source_does_not_delay_the_others() -> None:
    slow, fast = FakeSource("slow", only_pod("a")), FakeSource("fast", only_pod("b"))
    slow.open.clear()
    listener = Listener()
    with running(slow, fast, listener=listener) as service:
        listener.wait_for(lambda known: "b" in known.pods)
        fast.answers.append(only_pod("c"))
        # Not only the first answer: the fast source goes on being asked.
        service.refresh()
        listener.wait_for(lambda known: "c" in known.pods)
        assert all("a" not in known.pods for known in listener.told)
        slow.open.set()
        listener.wait_for(lambda known: known.pods.keys() == {"a", "c"})


def test_dead_source_does_not_hide_the_others() -> None:
    dead = FakeSource("dead", NameSourceError("connection refused"))
    listener = Listener()
    with running(dead, FakeSource("alive", only_pod("a")), listener=listener) as service:
        settle(service)
        assert listener.told[-1] == only_pod("a")
        assert service.failures == {"dead": "connection refused"}


def test_ticket_waits_for_an_answer_asked_for_after_it() -> None:
    source = FakeSource("only", only_pod("before"), only_pod("after"))
    source.open.clear()
    listener = Listener()
    with running(source, listener=listener) as service:
        assert source.asked.acquire(timeout=LONG)
        # The source is being asked already: what it is about to say may be older than this.
        ticket = service.refresh()
        assert not service.done(ticket)
        source.open.set()
        assert service.wait(ticket, LONG)
        assert service.done(ticket)
        assert service.generation >= ticket
        assert listener.told[-1] == only_pod("after")


def test_ticket_is_not_done_before_on_names_has_returned() -> None:
    inside, leave = threading.Event(), threading.Event()

    def on_names(_: Names) -> None:
        inside.set()
        assert leave.wait(LONG)

    with running(FakeSource("only", only_pod("a")), listener=on_names) as service:
        ticket = service.refresh()
        assert inside.wait(LONG)
        assert not service.done(ticket)
        leave.set()
        assert service.wait(ticket, LONG)


def test_many_requests_are_one_question() -> None:
    source = FakeSource("only", only_pod("a"))
    source.open.clear()
    with running(source) as service:
        assert source.asked.acquire(timeout=LONG)
        tickets = [service.refresh() for _ in range(1000)]
        source.open.set()
        assert service.wait(tickets[-1], LONG)
        assert all(map(service.done, tickets))
        assert len(source.times) == 2


def test_questions_keep_their_distance() -> None:
    source = FakeSource("only", only_pod("a"))
    with running(source, spacing=0.02) as service:
        for _ in range(5):
            settle(service)
        gaps = [later - earlier for earlier, later in pairwise(source.times)]
        assert len(gaps) >= 4
        assert min(gaps) >= 0.01  # without it they would be a tenth of that


def test_idle_service_answers_at_once() -> None:
    source = FakeSource("only", only_pod("a"))
    service = NameService([source], Listener(), spacing=LONG)
    service.start()
    try:
        assert source.asked.acquire(timeout=LONG / 4)
    finally:
        service.stop()


def test_failed_source_is_asked_again_without_a_request() -> None:
    failure = NameSourceError("starting")
    source = FakeSource("late", failure, failure, failure, only_pod("a"))
    listener = Listener()
    with running(source, listener=listener, first_retry=0.01, last_retry=0.02) as service:
        listener.wait_for(lambda known: "a" in known.pods)
        assert service.failures == {}
    gaps = [later - earlier for earlier, later in pairwise(source.times)]
    assert gaps[0] >= 0.009
    assert gaps[1] >= 0.019


def test_failed_source_rests_whatever_is_requested() -> None:
    dead = FakeSource("dead", NameSourceError("connection refused"))
    with running(dead, first_retry=LONG * 10) as service:
        for _ in range(20):
            settle(service)
        assert len(dead.times) == 1


def test_failed_source_keeps_its_last_answer() -> None:
    best = FakeSource("best", only_pod("a", "right"), NameSourceError("restarting"))
    other = FakeSource("other", only_pod("a", "wrong"))
    listener = Listener()
    with running(best, other, listener=listener, first_retry=LONG * 10) as service:
        settle(service)
        settle(service)
        assert service.failures == {"best": "restarting"}
        settle(service)
        assert listener.told[-1].pods["a"].name == "right"


def test_hanging_source_is_given_up_and_taken_back() -> None:
    hanging, fine = FakeSource("hanging", only_pod("a")), FakeSource("fine", only_pod("b"))
    hanging.open.clear()
    listener = Listener()
    with running(hanging, fine, listener=listener, patience=0.01) as service:
        assert service.wait(service.refresh(), LONG)
        assert "no answer" in service.failures["hanging"]
        hanging.open.set()
        listener.wait_for(lambda known: known.pods.keys() == {"a", "b"})
        settle(service)
        assert service.failures == {}


def test_a_source_that_is_left_has_not_failed() -> None:
    """At the end, connections are closed here."""
    left = FakeSource("left", NameSourceError("was left"))
    left.open.clear()
    with running(left) as service:
        assert left.asked.acquire(timeout=LONG)
        assert service.awaited == ["left"]
        service.stop()
        assert service.failures == {}


def test_what_was_done_stays_done_when_a_source_recovers() -> None:
    class AnswersOnce(FakeSource):
        def snapshot(self) -> Names:
            try:
                return super().snapshot()
            finally:
                # Whoever recovers is asked again at once: there it hangs, behind the others.
                if not self.closed.is_set():
                    self.open.clear()

    late, fine = AnswersOnce("late", only_pod("a")), FakeSource("fine", only_pod("b"))
    late.open.clear()
    listener = Listener()
    generations: list[int] = []

    def on_names(known: Names) -> None:
        generations.append(service.generation)
        listener(known)

    with running(late, fine, listener=on_names, patience=0.3) as service:
        # It is being asked for the first ticket, and will have served no other.
        assert late.asked.acquire(timeout=LONG)
        tickets = [service.refresh() for _ in range(3)]
        assert service.wait(tickets[-1], LONG)
        late.open.set()
        listener.wait_for(lambda known: "a" in known.pods)
        fine.answers.append(only_pod("c"))
        service.refresh()
        listener.wait_for(lambda known: "c" in known.pods)
        assert all(map(service.done, tickets))
    assert generations == sorted(generations)


def test_unforeseen_errors_end_nothing() -> None:
    broken = FakeSource("broken", ZeroDivisionError("a\nbug"), only_pod("a"))
    listener = Listener()
    heard: list[Names] = []

    def on_names(known: Names) -> None:
        heard.append(known)
        if len(heard) == 1:
            raise KeyError("callback")
        listener(known)

    fine = FakeSource("fine", only_pod("b"))
    with running(broken, fine, listener=on_names, first_retry=0.5) as service:
        settle(service)
        assert service.failures["broken"] == "ZeroDivisionError: a bug"
        listener.wait_for(lambda known: known.pods.keys() == {"a", "b"})
        settle(service)
        assert service.failures == {}


def test_failing_callback_is_told() -> None:
    def on_names(_: Names) -> None:
        raise KeyError("callback")

    with running(FakeSource("fine", only_pod("b")), listener=on_names) as service:
        settle(service)
        assert service.failures == {"names": "KeyError: 'callback'"}


def test_without_sources_there_is_nothing_to_wait_for() -> None:
    with running() as service:
        settle(service)


def test_stop_closes_sources_and_ends_all_waiting() -> None:
    hanging = FakeSource("hanging", only_pod("a"))
    hanging.open.clear()
    service = NameService([hanging], Listener())
    service.start()
    assert hanging.asked.acquire(timeout=LONG)
    ticket = service.refresh()
    before = time.monotonic()
    service.stop()
    assert hanging.closed.is_set()
    assert service.wait(ticket, LONG)
    assert service.done(ticket)
    assert time.monotonic() - before < LONG / 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("names")]


def test_merge_takes_every_field_from_the_first_who_knows_it() -> None:
    first = Names(
        {"a": Pod("a", "default", None, None)},
        {"1": Container("1", "containerd", None, "a", 42)},
    )
    second = Names(
        {"a": Pod("a", "other", "web", {"app": "web"}), "b": Pod("b")},
        {"1": Container("1", "docker", "nginx", "b", 43), "2": Container("2")},
    )
    assert merge([first, second]) == Names(
        {"a": Pod("a", "default", "web", {"app": "web"}), "b": Pod("b")},
        {"1": Container("1", "containerd", "nginx", "a", 42), "2": Container("2")},
    )


def test_merge_knows_no_labels_from_unknown_labels() -> None:
    unlabelled = Names({"a": Pod("a", labels={})})
    assert merge([unlabelled, Names({"a": Pod("a", labels={"app": "web"})})]) == unlabelled


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node without any socket, at the places where they are searched."""
    paths = tuple(str(tmp_path / name) for name in ("containerd.sock", "crio.sock", "link.sock"))
    monkeypatch.setattr(cri, "DEFAULT_SOCKETS", paths)
    monkeypatch.setattr(names, "PODMAN_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setattr(names, "HOST", str(tmp_path / "host"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/podman.sock")
    return tmp_path


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def test_default_sources_without_any_socket(node: Path) -> None:
    assert [type(source) for source in default_sources(None)] == [LogDirectorySource]


def test_default_sources_in_order_of_authority(node: Path) -> None:
    for name in ("docker.sock", "crio.sock", "containerd.sock"):
        listen(node / name)
    (node / "link.sock").symlink_to(node / "containerd.sock")
    sources = default_sources(None)
    assert [type(source) for source in sources] == [
        CriSource,
        CriSource,
        LogDirectorySource,
        DockerSource,
    ]
    assert [source.name for source in sources] == [
        f"cri {node}/containerd.sock",
        f"cri {node}/crio.sock",
        "log directories",
        f"docker {node}/docker.sock",
    ]


def test_below_the_hosts_root_where_nothing_is_at_its_own_place(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = cri.DEFAULT_SOCKETS[1], f"{node}/host{cri.DEFAULT_SOCKETS[1]}"
    present = {there}
    monkeypatch.setattr(names, "_is_socket", lambda path: path in present)
    monkeypatch.setattr(names, "LOGS", f"{node}/logs")
    Path(f"{node}/host{node}/logs").mkdir(parents=True)
    (node / "host/var/log/pods/shop_web-0_0a1b").mkdir(parents=True)
    runtime, logs = default_sources(None)
    assert runtime.name == f"cri {there}"
    assert [pod.name for pod in logs.snapshot().pods.values()] == ["web-0"]
    present.add(here)
    runtime, logs = default_sources(None)
    assert runtime.name == f"cri {here}"


def test_podman_is_asked_before_docker(node: Path) -> None:
    for name in ("docker.sock", "podman.sock"):
        listen(node / name)
    (node / "storage").mkdir()
    assert [source.name for source in default_sources(None)] == [
        "log directories",
        f"podman {node}/podman.sock",
        f"docker {node}/docker.sock",
        f"podman {node}/storage",
    ]


def test_podman_that_poses_as_docker_is_asked_once(node: Path) -> None:
    listen(node / "podman.sock")
    (node / "docker.sock").symlink_to(node / "podman.sock")
    assert [source.name for source in default_sources(None)] == [
        "log directories",
        f"podman {node}/podman.sock",
    ]


def test_a_docker_on_another_machine_is_not_asked(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert not [s for s in default_sources(None) if s.name.startswith("docker /nosuch")]


def test_file_that_is_no_socket_is_not_asked(node: Path) -> None:
    (node / "crio.sock").touch()
    assert [type(source) for source in default_sources(None)] == [LogDirectorySource]


def test_socket_that_the_user_names_is_the_only_runtime_asked(node: Path) -> None:
    listen(node / "containerd.sock")
    listen(node / "mine.sock")
    assert [source.name for source in default_sources(f"{node}/mine.sock")] == [
        f"cri {node}/mine.sock",
        "log directories",
    ]


@pytest.mark.parametrize("name", ["missing.sock", "plain-file", "nul\0"])
def test_socket_that_the_user_names_must_exist(node: Path, name: str) -> None:
    (node / "plain-file").touch()
    with pytest.raises(NameSourceError, match=r"--cri-socket .*leave the flag out"):
        default_sources(f"{node}/{name}")
