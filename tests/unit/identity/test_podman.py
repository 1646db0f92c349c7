# SPDX-License-Identifier: Apache-2.0
"""Podman's API against a little server on a unix socket, and the file of its storage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.test_docker import Daemon
from tracer.identity import podman
from tracer.identity.podman import PodmanFiles, PodmanSource
from tracer.model.names import Container, Names, NameSourceError, Pod

CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
INFRA = "3ad85da3fccbfd88a3f7b0c1e9f1d8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1"
POD = "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "podman.sock")
    yield daemon
    daemon.close()


def described(container_id: str, *names: str, **more: object) -> dict[str, object]:
    return {"Id": container_id, "Names": list(names), "Pod": "", "PodName": "", "Pid": 0, **more}


def test_containers_in_no_pod(daemon: Daemon) -> None:
    daemon.knows(described(CID, "web", Pid=42), described(INFRA) | {"Names": None})
    assert PodmanSource(daemon.path).snapshot() == Names(
        {},
        {
            CID: Container(CID, "podman", "web", None, 42),
            INFRA: Container(INFRA, "podman", None, None, None),
        },
    )
    assert daemon.request.startswith(b"GET /v3.0.0/libpod/containers/json?all=true HTTP/1.1\r\n")


def test_a_pod_has_no_namespace_and_its_infra_container_no_name(daemon: Daemon) -> None:
    pod = {"Pod": POD, "PodName": "shop"}
    daemon.knows(
        described(CID, "web", **pod), described(INFRA, f"{POD[:12]}-infra", IsInfra=True, **pod)
    )
    names = PodmanSource(daemon.path).snapshot()
    assert names.pods == {POD: Pod(POD, "", "shop")}
    assert names.pods[POD].title == "shop"
    assert names.containers == {
        CID: Container(CID, "podman", "web", POD),
        INFRA: Container(INFRA, "podman", None, POD),
    }


def test_names_that_nobody_could_have_given_are_left_out(daemon: Daemon) -> None:
    daemon.knows(described(CID, "n" * 254, Pod=POD, PodName="p" * 254))
    assert PodmanSource(daemon.path).snapshot() == Names(
        {}, {CID: Container(CID, "podman", None, POD)}
    )


@pytest.mark.parametrize(
    "answer", [{}, [1], [{}], [{"Id": 1}], [{"Id": CID, "Names": [1]}], [{"Id": CID, "Pid": "1"}]]
)
def test_an_answer_of_another_shape(daemon: Daemon, answer: object) -> None:
    daemon.answers(json.dumps(answer).encode())
    with pytest.raises(NameSourceError, match="does not speak podman's API"):
        PodmanSource(daemon.path).snapshot()


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(NameSourceError, match=r"no podman at .*: No such file"):
        PodmanSource(str(tmp_path / "none.sock")).snapshot()


# The file


def stored(storage: Path, content: object, driver: str = "overlay") -> Path:
    path = storage / f"{driver}-containers" / "containers.json"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_drivers_containers_are_read(tmp_path: Path) -> None:
    stored(tmp_path, [{"id": CID, "names": ["web"], "image": "…"}])
    stored(tmp_path, [{"id": INFRA}], "vfs")
    assert PodmanFiles(tmp_path).snapshot() == Names(
        {}, {CID: Container(CID, "podman", "web"), INFRA: Container(INFRA, "podman", None)}
    )


def test_a_storage_that_podman_has_not_used_yet(tmp_path: Path) -> None:
    assert PodmanFiles(tmp_path / "none").snapshot() == Names()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = stored(tmp_path, [])
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NameSourceError, match=r"containers\.json"):
        PodmanFiles(tmp_path).snapshot()


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "MAX_ANSWER", 10)
    stored(tmp_path, [{"id": CID}])
    with pytest.raises(NameSourceError, match="is not podman's"):
        PodmanFiles(tmp_path).snapshot()


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_any_other_content_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    storage = tmp_path_factory.mktemp("storage")
    stored(storage, json.dumps(content))
    try:
        assert PodmanFiles(storage).snapshot() == Names()
    except NameSourceError as error:
        assert str(error).endswith("is not podman's")
