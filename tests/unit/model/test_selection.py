# SPDX-License-Identifier: Apache-2.0
"""Selectors: modes, verdicts while names are missing, and the same decision as the kernel's."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.bpf_object import shipped
from tracer.model import selection
from tracer.model.cgroup import CgroupIdentity, parse
from tracer.model.errors import UsageError
from tracer.model.event import Event, Place, Process
from tracer.model.names import Container, Pod
from tracer.model.selection import (
    AS_SENDER,
    AS_TARGET,
    BOTH_SIDES,
    Mode,
    Selection,
    parse_labels,
    pod_matches,
)

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
PATH = f"/kubepods/pod{UID}/{CID}"
HEADER = Path(__file__).resolve().parents[3] / "probes" / "include" / "ktrace.h"

WEB = Pod(UID, "shop", "web-0", {"app": "web", "tier": "front"})
NGINX = Container(CID, "containerd", "nginx")


def place(
    pod: Pod | None = WEB, container: Container | None = NGINX, path: str | None = PATH
) -> Place:
    return Place(1, path, parse(path or ""), pod, container)


HOST = place(None, None, "/user.slice")
NAMELESS = place(Pod(UID), Container(CID))


def process(at: Place | None) -> Process:
    return Process(1, 1, place=at)


def event(about: Place | None, by: Place | None = HOST) -> Event:
    return Event("signal", 0, process(about), process(by), {})


# Modes


def test_the_modes_are_those_of_the_kernel_side() -> None:
    described = shipped("context")
    assert {mode.value for mode in Mode} == described.numbers("kt_selection_mode").keys()
    assert {*selection.SIDES.values(), "KT_UNDECIDED"} == described.numbers("kt_selected").keys()


@pytest.mark.parametrize(
    ("selectors", "mode"),
    [
        ({}, Mode.EITHER),
        ({"everything": True}, Mode.ALL),
        ({"pids": frozenset({1})}, Mode.ALL),
        ({"pods": ("web",)}, Mode.TARGET),
        ({"namespaces": ("shop",)}, Mode.TARGET),
        ({"containers": ("nginx",)}, Mode.TARGET),
        ({"labels": (("app", "web"),)}, Mode.TARGET),
        ({"pods": ("web",), "pids": frozenset({1})}, Mode.TARGET),
        ({"sender_pods": ("web",)}, Mode.BOTH),
        ({"sender_pods": ("web",), "pods": ("db",)}, Mode.BOTH),
        ({"sender_pods": ("web",), "pids": frozenset({1})}, Mode.BOTH),
    ],
)
def test_what_is_asked_decides_the_mode(selectors: dict[str, Any], mode: Mode) -> None:
    assert Selection(**selectors).mode is mode


def test_globs_are_the_pods_that_were_named() -> None:
    chosen = Selection(pods=("a",), sender_pods=("b",), namespaces=("c",), containers=("d",))
    assert chosen.globs == ("a", "b")


# Verdicts of one selector

YES, NO, UNKNOWN = True, False, None


@pytest.mark.parametrize(
    ("glob", "answer"),
    [
        ("web-0", YES),
        ("web-*", YES),
        ("web-?", YES),
        ("web-[0-3]", YES),
        ("web", NO),
        ("*", YES),
        ("shop/web-0", YES),
        ("sh*/w*", YES),
        ("*/web-0", YES),
        ("other/web-0", NO),
        ("shop/db", NO),
        ("shop/", NO),
        ("WEB-0", NO),
        ("pod/web-0", YES),
        ("pods/web-*", YES),
        ("po/web-0", YES),
        ("shop/pod/web-0", YES),
        ("other/pod/web-0", NO),
        ("pod/db", NO),
        (UID, YES),
        (f"{UID[:8]}*", YES),
        (f"{UID[:-1]}0", NO),
    ],
)
def test_pods_by_name(glob: str, answer: bool) -> None:
    assert pod_matches(WEB, glob) is answer
    assert Selection(pods=(glob,)).wants(event(place())) is answer


@pytest.mark.parametrize(
    ("pod", "glob", "answer"),
    [
        (Pod(UID), "web-0", UNKNOWN),
        (Pod(UID), "shop/web-0", UNKNOWN),
        (Pod(UID), UID, YES),
        (Pod(UID), "*", YES),  # any pod has a uid
        (Pod(UID, "shop"), "shop/web", UNKNOWN),
        (Pod(UID, "shop"), "other/web", NO),
        (Pod(UID, None, "web"), "shop/web", UNKNOWN),
        (Pod(UID, None, "web"), "shop/db", NO),
        (None, "*", NO),
    ],
)
def test_pods_whose_names_are_missing(pod: Pod | None, glob: str, answer: bool | None) -> None:
    assert Selection(pods=(glob,)).wants(event(place(pod))) is answer


@pytest.mark.parametrize(
    ("pod", "answer"),
    [(WEB, YES), (Pod(UID, "other"), NO), (Pod(UID), UNKNOWN), (None, UNKNOWN)],
)
def test_namespaces(pod: Pod | None, answer: bool | None) -> None:
    assert Selection(namespaces=("sh*",)).wants(event(place(pod))) is answer


@pytest.mark.parametrize(
    ("container", "glob", "answer"),
    [
        (NGINX, "nginx", YES),
        (NGINX, "ng*", YES),
        (NGINX, "db", NO),
        (NGINX, CID, YES),
        (NGINX, CID[:12], YES),
        (NGINX, CID[:6], YES),
        (NGINX, CID[:5], NO),  # too short to mean one container
        (NGINX, CID[1:], NO),
        (Container(CID), CID[:12], YES),
        (Container(CID), "nginx", UNKNOWN),
        (None, "nginx", NO),  # a pod's own cgroup is in no container
    ],
)
def test_containers(container: Container | None, glob: str, answer: bool | None) -> None:
    assert Selection(containers=(glob,)).wants(event(place(WEB, container))) is answer


@pytest.mark.parametrize(
    ("labels", "answer"),
    [
        ([("app", "web")], YES),
        ([("app", None)], YES),
        ([("app", "web"), ("tier", "front")], YES),
        ([("app", "web"), ("tier", "back")], NO),
        ([("app", "db")], NO),
        ([("app", "")], NO),
        ([("zone", None)], NO),
    ],
)
def test_labels(labels: list[tuple[str, str | None]], answer: bool) -> None:
    chosen = Selection(labels=tuple(labels))
    assert chosen.wants(event(place())) is answer
    assert chosen.wants(event(place(Pod(UID, "shop", "web-0")))) is UNKNOWN
    assert chosen.wants(event(place(Pod(UID, "shop", "web-0", {})))) is NO


def test_several_selectors_must_all_match_and_one_of_each_is_enough() -> None:
    right = {
        "pods": ("db", "web-0"),
        "namespaces": ("x", "shop"),
        "containers": ("y", "nginx"),
        "labels": (("app", "web"),),
    }
    wrong = {
        "pods": ("db",),
        "namespaces": ("x",),
        "containers": ("y",),
        "labels": (("app", "db"),),
    }
    assert Selection(**right).wants(event(place())) is YES  # type: ignore[arg-type]
    for name in right:
        mixed = {**right, name: wrong[name]}
        assert Selection(**mixed).wants(event(place())) is NO  # type: ignore[arg-type]


def test_one_glob_that_matches_needs_no_name_for_the_others() -> None:
    assert Selection(pods=("web-0", UID)).wants(event(NAMELESS)) is YES
    assert Selection(sender_pods=("web-0", UID)).verdict(NAMELESS) == BOTH_SIDES
    assert Selection(pods=("web-0", "x")).wants(event(NAMELESS)) is UNKNOWN


def test_a_selector_that_fails_for_certain_needs_no_names() -> None:
    chosen = Selection(pods=("web",), containers=("nginx",))
    assert chosen.wants(event(place(Pod(UID), None))) is NO


def test_a_container_that_is_in_no_pod_is_selected_as_a_container() -> None:
    docker = place(None, NGINX, f"/docker/{CID}")
    for chosen in (Selection(containers=("nginx",)), Selection(containers=(CID[:12],))):
        assert chosen.verdict(docker) == BOTH_SIDES
        assert chosen.wants(event(docker)) is YES
    for chosen in (
        Selection(pods=("*",)),
        Selection(namespaces=("*",)),
        Selection(labels=(("app", None),)),
        Selection(containers=("nginx",), pods=("*",)),
        Selection(containers=("redis",)),
    ):
        assert chosen.verdict(docker) == 0 | AS_SENDER
        assert chosen.wants(event(docker)) is NO
    assert Selection().wants(event(docker)) is NO
    assert Selection(everything=True).wants(event(docker)) is YES


def test_where_no_pods_are_a_container_is_shown_unasked() -> None:
    docker = place(None, NGINX, f"/docker/{CID}")
    shown = Selection(without_pods=True)
    assert shown.verdict(docker) == BOTH_SIDES
    assert shown.wants(event(docker)) is YES
    assert shown.wants(event(HOST, docker)) is YES
    assert shown.wants(event(HOST)) is NO
    assert shown.verdict(place()) == BOTH_SIDES


def test_a_pod_that_only_its_runtime_knows() -> None:
    """Podman's pods have no cgroup that names them, and no namespace."""
    pod = Pod("d6701ec289c5", "", "shop")
    inside = place(pod, NGINX, f"/machine.slice/libpod-{CID}.scope")
    named = place(None, NGINX, f"/machine.slice/libpod-{CID}.scope")
    nameless = place(None, Container(CID), f"/machine.slice/libpod-{CID}.scope")
    chosen = Selection(pods=("shop",), without_pods=True)
    assert [chosen.wants(event(p)) for p in (inside, named, nameless)] == [YES, NO, UNKNOWN]
    assert Selection(pods=("shop",)).wants(event(nameless)) is NO
    assert Selection().wants(event(inside)) is YES
    assert Selection(pods=("front/shop",), without_pods=True).wants(event(inside)) is NO


# Verdicts for the kernel


def test_verdicts() -> None:
    either, target = Selection(), Selection(pods=("web-0",))
    both = Selection(pods=("web-0",), sender_pods=("db",))
    sender = Selection(sender_pods=("web-0",))
    assert [either.verdict(p) for p in (place(), NAMELESS, HOST)] == [BOTH_SIDES, BOTH_SIDES, 0]
    assert [target.verdict(p) for p in (place(), NAMELESS, HOST)] == [BOTH_SIDES, None, AS_SENDER]
    assert [both.verdict(p) for p in (place(), NAMELESS, HOST)] == [AS_TARGET, None, 0]
    assert [sender.verdict(p) for p in (place(), NAMELESS, HOST)] == [BOTH_SIDES, None, AS_TARGET]


# The two sides

SIDES = list(itertools.product(["web", "host", "nameless", "lost", "none"], repeat=2))


def at(word: str) -> Process | None:
    if word == "none":
        return None
    return process({"web": place(), "host": HOST, "nameless": NAMELESS, "lost": None}[word])


@pytest.mark.parametrize(("about", "by"), SIDES)
def test_without_selectors_one_side_in_a_pod_is_enough(about: str, by: str) -> None:
    answer = Selection().wants(Event("signal", 0, at(about), at(by), {}))
    assert answer is bool({about, by} & {"web", "nameless", "lost"})


@pytest.mark.parametrize(("about", "by"), SIDES)
def test_a_pod_is_selected_as_the_target_whoever_the_sender_is(about: str, by: str) -> None:
    answer = Selection(pods=("web-0",)).wants(Event("signal", 0, at(about), at(by), {}))
    assert answer is {"web": YES, "lost": YES, "nameless": UNKNOWN}.get(about, NO)


@pytest.mark.parametrize(("about", "by"), SIDES)
def test_a_sender_pod_is_selected_by_the_other_side(about: str, by: str) -> None:
    chosen = Selection(sender_pods=("web-0",))
    answer = chosen.wants(Event("signal", 0, at(about), at(by), {}))
    told = {"web": YES, "lost": YES, "nameless": UNKNOWN}.get(by, NO)
    if about == "none":
        told = NO
    elif about == "nameless" and told is YES:
        told = UNKNOWN  # its verdict as a sender is open, so the whole of it is
    assert answer is told


@pytest.mark.parametrize(("about", "by"), SIDES)
def test_everything_is_everything(about: str, by: str) -> None:
    assert Selection(everything=True).wants(Event("x", 0, at(about), at(by), {})) is YES


@pytest.mark.parametrize(("about", "by"), SIDES)
def test_places_count_where_no_process_is_known(about: str, by: str) -> None:
    """As when a packet meets a socket."""
    for chosen in (Selection(), Selection(pods=("web-0",)), Selection(sender_pods=("web-0",))):
        sides = [s if s in ("web", "host", "nameless") else "none" for s in (about, by)]
        one, other = (at(side) for side in sides)
        places = [p.place if p else None for p in (one, other)]
        with_processes = chosen.wants(Event("x", 0, one, other, {}))
        assert chosen.wants(Event("x", 0, None, None, {}, *places)) is with_processes


def test_a_place_that_is_given_decides_and_not_the_processes() -> None:
    host, web = process(HOST), place()
    assert Selection().wants(Event("x", 0, host, host, {})) is NO
    assert Selection().wants(Event("x", 0, host, host, {}, web)) is YES
    assert Selection().wants(Event("x", 0, host, host, {}, None, web)) is YES


def test_a_cgroup_whose_path_is_unknown_is_better_shown_than_hidden() -> None:
    lost = Place(1, None, CgroupIdentity())
    assert Selection().wants(event(lost)) is not NO
    assert Selection(pods=("web-0",)).wants(event(lost)) is not NO
    assert Selection().verdict(lost) in (None, BOTH_SIDES)


# Against the kernel's decision


class Decided(Selection):
    """A selection whose verdicts are given."""

    given: dict[int, int]

    def verdict(self, place: Place) -> int | None:
        return self.given[place.cgroup]


MODES = {
    Mode.ALL: {"everything": True},
    Mode.EITHER: {},
    Mode.TARGET: {"pods": ("x",)},
    Mode.BOTH: {"sender_pods": ("x",)},
}


def kt_wanted(mode: Mode, target: int, sender: int | None) -> bool:
    """probes/include/ktrace.h, line by line; `sender` is None for NULL."""
    if mode == Mode.ALL:
        return True
    as_target = bool(target & AS_TARGET)
    if mode == Mode.TARGET or as_target != (mode == Mode.BOTH):
        return as_target
    if sender is None:
        return False
    return bool(sender & AS_SENDER)


VERDICTS = st.integers(0, 3)


@given(st.sampled_from(list(Mode)), VERDICTS, st.none() | VERDICTS)
def test_the_decision_is_the_kernels(mode: Mode, target: int, sender: int | None) -> None:
    chosen = Decided(**MODES[mode])  # type: ignore[arg-type]
    assert chosen.mode is mode
    object.__setattr__(chosen, "given", {1: target, 2: sender})
    about = Process(1, 1, place=Place(1, "/a", CgroupIdentity()))
    by = None if sender is None else Process(2, 2, place=Place(2, "/b", CgroupIdentity()))
    assert chosen.wants(Event("signal", 0, about, by, {})) is kt_wanted(mode, target, sender)


PODS = st.builds(
    Pod,
    st.just(UID),
    st.none() | st.sampled_from(["shop", "bank"]),
    st.none() | st.sampled_from(["web-0", "db-0"]),
    st.none() | st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b"])),
)
CONTAINERS = st.none() | st.builds(
    Container, st.just(CID), name=st.none() | st.sampled_from(["nginx", "log"])
)
SELECTIONS = st.builds(
    Selection,
    pods=st.sampled_from([(), ("web-*",), ("shop/web-0",), ("x", "bank/*")]),
    namespaces=st.sampled_from([(), ("shop",)]),
    containers=st.sampled_from([(), ("nginx",), (CID[:8],)]),
    labels=st.sampled_from([(), (("app", "a"),), (("tier", None),)]),
    sender_pods=st.sampled_from([(), ("db-0",), ("shop/*",)]),
)


@given(SELECTIONS, PODS, CONTAINERS, PODS, CONTAINERS)
def test_a_name_that_arrives_never_overturns_a_decision(
    chosen: Selection, pod: Pod, container: Container | None, full: Pod, named: Container | None
) -> None:
    """The kernel side is told a verdict only once, so it must hold for whatever is learnt later."""
    path = PATH if container else f"/kubepods/pod{UID}"
    early = chosen.verdict(place(pod, container, path))
    later = Pod(
        UID,
        pod.namespace or full.namespace or "bank",
        pod.name or full.name or "db-0",
        full.labels or {} if pod.labels is None else pod.labels,
    )
    if container and container.name is None:
        container = Container(CID, name=(named.name if named else None) or "log")
    final = chosen.verdict(place(later, container, path))
    assert final is not None
    if early is not None:
        assert early == final


# Labels


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        ([], ()),
        (["app=web"], (("app", "web"),)),
        (["app==web"], (("app", "web"),)),
        (["app"], (("app", None),)),
        (["app="], (("app", ""),)),
        (["a=b,c", " d = e"], (("a", "b"), ("c", None), ("d", "e"))),
        (["a=b=c"], (("a", "b=c"),)),
        (["", " , "], ()),
        (["example.com/part-of=shop"], (("example.com/part-of", "shop"),)),
    ],
)
def test_label_selectors(words: list[str], pairs: tuple[tuple[str, str | None], ...]) -> None:
    assert parse_labels(words) == pairs


@pytest.mark.parametrize(
    "word", ["=web", "app!=web", "!app", "a,=b", "app in (web,db)", "app notin (web)", "a b"]
)
def test_label_selectors_that_are_not_understood(word: str) -> None:
    with pytest.raises(UsageError, match="label selector"):
        parse_labels([word])


def test_words_between_commas_may_be_missing() -> None:
    assert parse_labels(["app=web,,tier", " "]) == (("app", "web"), ("tier", None))


def test_a_wrong_label_selector_names_its_remedy() -> None:
    with pytest.raises(UsageError) as refused:
        parse_labels(["app in (web)"])
    assert "app=web,tier" in (refused.value.remedy or "")


def test_a_cgroup_whose_path_is_not_known() -> None:
    """It is shown by default, rather than hidden by cgroups nested too deep; but a selector needs
    to know."""
    unknown = place(None, None, None)
    assert Selection().verdict(unknown) == BOTH_SIDES
    assert Selection(pods=("web-0",)).verdict(unknown) is None


def test_labels_of_nobody_do_not_match() -> None:
    assert Selection(labels=(("app", None),)).verdict(place(None, NGINX)) == AS_SENDER


NOT_NAMED = Pod(UID)


@pytest.mark.parametrize(
    ("selectors", "pod", "wanted"),
    [
        ({}, WEB, True),
        ({"containers": ("nginx",)}, WEB, True),  # whatever its containers
        ({"namespaces": ("shop",)}, WEB, True),
        ({"namespaces": ("x", "sh*")}, WEB, True),
        ({"namespaces": ("x",)}, WEB, False),
        ({"namespaces": ("shop",)}, NOT_NAMED, None),
        ({"pods": ("web-0",)}, WEB, True),
        ({"pods": ("x", "shop/web-*")}, WEB, True),
        ({"pods": ("x",)}, WEB, False),
        ({"pods": ("web-0",)}, NOT_NAMED, None),
        ({"pods": (UID,)}, NOT_NAMED, True),
        ({"labels": (("app", "web"), ("tier", None))}, WEB, True),
        ({"labels": (("app", "web"), ("tier", "back"))}, WEB, False),
        ({"labels": (("app", None),)}, NOT_NAMED, None),
        ({"namespaces": ("shop",), "pods": ("x",)}, WEB, False),
        ({"namespaces": ("x",), "pods": ("web-0",)}, WEB, False),
        ({"pods": ("web-0",), "labels": (("app", "x"),)}, WEB, False),
    ],
)
def test_whether_a_pod_is_wanted_whatever_its_containers(
    selectors: dict[str, Any], pod: Pod, wanted: bool | None
) -> None:
    assert Selection(**selectors).wants_pod(pod) is wanted
