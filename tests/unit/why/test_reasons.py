# SPDX-License-Identifier: Apache-2.0
"""Why the runtime was told to stop a container, and what only looks like that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.why.world import (
    APP,
    HOST,
    MS,
    NETWORK,
    RUNC,
    SECOND,
    UID,
    World,
    place_of,
    process,
)
from tracer.model.event import Process
from tracer.model.names import Pod
from tracer.why import reasons
from tracer.why.verdict import Certainty, Verdict

SHIM_PID = 3
SHIM = process(SHIM_PID, "containerd-shim", HOST, exe="/usr/bin/containerd-shim-runc-v2")
INIT = process(7, init=True, parents=[(SHIM_PID, "containerd-shim"), (1, "init")])
OTHER_POD = place_of(None, uid="ffffffff-ffff-4fff-8fff-ffffffffffff")


def stop(world: World, *, after_ms: float = 2500, ignored: bool = False) -> Verdict:
    """SIGTERM at 0, and how the container ended."""
    world.at(0).signal(
        "SIGTERM", "runtime", RUNC, INIT, result="ignored" if ignored else "delivered"
    )
    if ignored:
        world.at(after_ms).signal("SIGKILL", "runtime", RUNC, INIT)
        world.exit(by=9, who=INIT)
    else:
        world.at(after_ms).exit(0, who=INIT)
    return [e.verdict for e in world.explained() if e.story.end is not None][-1]


def refuse(world: World, times: Sequence[float], port: int = 8080, peer: object = None) -> None:
    for at in times:
        event = world.at(at)
        reset = event.reset("sent", "no_socket", "closed port", port=port)
        reset.by_place = peer  # type: ignore[assignment]


def command(pid: int, start_ms: float, *argv: str) -> Process:
    """That the runtime executes in the container."""
    own = process(
        pid, argv[0], start=(10_000 + int(start_ms)) * MS, parents=[(SHIM_PID, "containerd-shim")]
    )
    own.argv = list(argv)
    return own


def test_a_probe_that_was_refused() -> None:
    world = World()
    refuse(world, [-4010, -2010, -10])
    verdict = stop(world, after_ms=200)
    assert verdict.id == "stopped_in_time"
    assert verdict.reasons == ("probe_refused",)
    assert verdict.sentence.startswith(
        "liveness probe of port 8080 refused 3 times (likely); stopped by the runtime: app[7]"
    )
    assert verdict.certainty is Certainty.LIKELY
    assert any("198.18.0.1, which is no pod" in doubt for doubt in verdict.doubts)
    assert verdict.evidence[0].event.kind == "tcp_reset"
    assert "kubectl get events -n shop --field-selector involvedObject.name=web-0" in verdict.remedy


@pytest.mark.parametrize(
    "times",
    [
        [-6300, -4300, -2300],  # a busy node: the next one would have been late
        [-5050, -3850, -2550, -1600],  # each a little early or late
        [-21_000, -10_950, -990],
    ],
)
def test_a_probe_that_was_acted_on_late(times: list[float]) -> None:
    world = World()
    refuse(world, times)
    assert stop(world).reasons == ("probe_refused",)


@pytest.mark.parametrize(
    ("times", "peer"),
    [
        ([-9000, -7000, -5000], None),  # long before
        ([-6600, -4600, -2600], None),  # the next one was not refused
        ([-22_500, -12_500, -2500], None),  # anything may have happened in so long a time
        ([-4000, -2000], None),  # whether that is a rhythm nobody knows
        ([-4300, -2300, 1000], None),  # it went on, so nobody had decided
        ([-4010, -2010, -10], OTHER_POD),  # a client in a pod
        ([-10], None),  # once
        ([-3000, -900, -800, -700, -30, -20, -10], None),  # in no rhythm
        ([], None),
    ],
)
def test_refusals_that_are_no_reason(times: list[float], peer: object) -> None:
    world = World()
    refuse(world, times, peer=peer)
    verdict = stop(world)
    assert verdict.reasons == ()
    assert verdict.sentence.startswith("stopped by the runtime: ")
    assert "who ordered it" in verdict.remedy


def test_a_probe_of_a_pod_with_several_containers() -> None:
    world = World()
    refuse(world, [-4010, -2010, -10])
    neighbour = process(70, "side", place_of("b" * 64, "side"))
    world.at(-5).signal("SIGUSR1", "same-pod", INIT, neighbour)
    assert stop(world).reasons == ("probe_refused",)


def test_a_probe_in_each_life() -> None:
    """What the first life was refused is no reason for the second one's stop."""
    world = World()
    refuse(world, [-60_000, -58_000, -56_000])
    first = process(6, place=place_of("c" * 64), init=True)
    world.at(-55_000).exit(3, who=first)
    refuse(world, [-4010, -2010, -10])
    assert "refused 3 times" in stop(world).sentence


def timed_out(world: World, times: Sequence[float], killer: Process = SHIM) -> None:
    for n, at in enumerate(times):
        probe = command(100 + n, at - 1000, "sleep", "60")
        world.at(at).signal("SIGKILL", "runtime", killer, probe)
        world.exit(by=9, who=probe, ends_container=False)


def test_an_exec_probe_that_took_too_long() -> None:
    world = World()
    timed_out(world, [-6020, -3020, -20])
    verdict = stop(world)
    assert verdict.reasons == ("exec_probe",)
    assert verdict.sentence.startswith(
        "liveness probe (sleep 60) took too long and was killed 3 times (likely); stopped by"
    )
    assert [entry.event.kind for entry in verdict.evidence][:2] == ["exit", "signal"]


@pytest.mark.parametrize(
    ("gap_ms", "left", "reasons"),
    [
        (30_000, True, ("exec_probe",)),
        (30_000, False, ()),  # a readiness probe, and a stop that has nothing to do with it
        (200_000, True, ()),  # longer than a kubelet waits
    ],
)
def test_an_exec_probe_that_left_a_child(
    gap_ms: float, left: bool, reasons: tuple[str, ...]
) -> None:
    """The runtime waits for its output to be closed, and tells of the failure late."""
    world = World()
    timed_out(world, [-gap_ms])
    world.at(0).signal("SIGTERM", "runtime", RUNC, INIT)
    world.at(10).exit(0, who=INIT)
    parents = [(100, "sleep"), (SHIM_PID, "containerd-shim")] if left else [(INIT.pid, "app")]
    world.signal("SIGKILL", "kernel", target=process(500, "sleep", parents=parents))
    assert world.only().verdict.reasons == reasons


def test_an_exec_probe_that_failed() -> None:
    world = World()
    for n, at in enumerate((-6020, -3020, -20)):
        world.at(at).exit(
            7, who=command(100 + n, at - 10, "sh", "-c", "exit 7"), ends_container=False
        )
    verdict = stop(world)
    assert verdict.reasons == ("exec_probe",)
    assert "liveness probe (sh -c 'exit 7') failed 3 times with exit code 7" in verdict.sentence


def test_commands_that_are_no_probe() -> None:
    world = World()
    for n, at in enumerate((-6020, -3020, -20)):  # they succeed
        world.at(at).exit(0, who=command(100 + n, at - 10, "true"), ends_container=False)
    child = process(300, "worker", parents=[(INIT.pid, "app"), (SHIM_PID, "containerd-shim")])
    world.at(-15).exit(7, who=child, ends_container=False)  # descends from the first process
    assert stop(world).reasons == ()


def test_what_a_stop_kills_together_with_the_first_process_was_no_probe() -> None:
    """runc kill --all"""
    world = World()
    shell = command(100, -60_000, "sh")
    world.at(-1).signal("SIGKILL", "runtime", RUNC, shell)
    world.exit(by=9, who=shell, ends_container=False)
    world.signal("SIGKILL", "runtime", RUNC, INIT)
    world.exit(by=9, who=INIT)
    verdict = world.only().verdict
    assert verdict.id == "killed_by_runtime"
    assert "exec_probe" not in verdict.reasons


def test_a_hook_that_ran_before() -> None:
    world = World()
    world.at(-8).exit(0, who=command(100, -3008, "sleep", "3"), ends_container=False)
    verdict = stop(world)
    assert verdict.reasons == ("pre_stop_hook",)
    assert verdict.sentence.startswith(
        "preStop hook (sleep 3) ran for 3 s before SIGTERM (likely); stopped by"
    )
    assert "kubectl get pod -n shop web-0 -o yaml" in verdict.remedy


def test_a_hook_that_did_not_finish() -> None:
    """It ends with the container, after it."""
    world = World()
    hook = command(100, -6000, "sleep", "600")
    world.at(0).signal("SIGTERM", "runtime", RUNC, INIT)
    world.at(600).exit(0, who=INIT)
    world.exit(by=9, who=hook, ends_container=False)
    verdict = world.only().verdict
    assert verdict.reasons == ("pre_stop_hook",)
    assert "preStop hook (sleep 600) had not finished after 6 s, when SIGTERM" in verdict.sentence


def test_a_hook_after_a_probe_that_failed() -> None:
    """The reason first, what it took second; and the least grace period is the hook's doing."""
    world = World()
    refuse(world, [-10_020, -8020, -6020])
    hook = command(100, -6000, "sleep", "600")
    world.at(0).signal("SIGTERM", "runtime", RUNC, INIT, result="ignored")
    world.at(2030).signal("SIGKILL", "runtime", RUNC, INIT)
    world.exit(by=9, who=INIT)
    world.exit(by=9, who=hook, ends_container=False)
    verdict = next(e.verdict for e in world.explained() if e.story.end is not None)
    assert verdict.reasons == ("probe_refused", "pre_stop_hook")


@pytest.mark.parametrize("after_ms", [2030, 2900])
def test_a_deletion_that_was_forced(after_ms: float) -> None:
    verdict = stop(World(), after_ms=after_ms, ignored=True)
    assert (verdict.id, verdict.reasons) == ("stop_ignored", ("least_grace",))
    assert verdict.sentence.startswith("given 2 s only, as when a deletion is forced (likely); ")
    assert "terminationGracePeriodSeconds: 2 looks the same" in verdict.doubts[0]


@pytest.mark.parametrize("after_ms", [1030, 3010, 5020, 30_030])
def test_other_grace_periods(after_ms: float) -> None:
    verdict = stop(World(), after_ms=after_ms, ignored=True)
    assert (verdict.reasons, verdict.certainty) == ((), Certainty.CERTAIN)


def test_a_kill_at_once_speaks_of_eviction_and_not_of_force() -> None:
    world = World()
    world.signal("SIGKILL", "runtime", RUNC, INIT)
    world.exit(by=9, who=INIT)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("killed_by_runtime", Certainty.CERTAIN)
    assert "kubectl describe pod -n shop web-0 says Evicted" in verdict.remedy
    assert "--force" not in verdict.remedy


def killed_by_kubelet(started: int) -> Verdict:
    world = World()
    kubelet = process(902, "kubelet", HOST, exe="/usr/bin/kubelet", start=started)
    world.signal("SIGKILL", "kubelet", kubelet, INIT)
    world.exit(by=9, who=INIT)
    return world.only().verdict


def test_an_orphan() -> None:
    verdict = killed_by_kubelet(5 * SECOND)
    assert (verdict.id, verdict.reasons) == ("killed_by_kubelet", ("orphaned",))
    assert verdict.sentence.startswith("orphaned: the kubelet was restarted 5 s before")
    assert verdict.certainty is Certainty.LIKELY


def test_a_kubelet_that_ran_before_the_container() -> None:
    verdict = killed_by_kubelet(SECOND)
    assert (verdict.id, verdict.reasons) == ("killed_by_kubelet", ())
    assert verdict.certainty is Certainty.CERTAIN
    assert "cron" not in verdict.remedy and "suspicious" not in verdict.sentence


def test_names_are_quoted_in_commands() -> None:
    world = World()
    place = place_of("d" * 64)
    place.rename(Pod(UID, "shop", "web$(id)", {}), place.container)
    init = process(7, place=place, init=True)
    world.signal("SIGTERM", "runtime", RUNC, init)
    world.exit(0, who=init)
    assert "'involvedObject.name=web$(id)'" in world.only().verdict.remedy


def test_a_container_of_no_pod_names_no_kubectl() -> None:
    world = World()
    place = place_of("d" * 64, uid=None)
    init = process(7, place=place, init=True)
    world.signal("SIGTERM", "runtime", RUNC, init)
    world.at(2030).signal("SIGKILL", "runtime", RUNC, init)
    world.exit(by=9, who=init)
    verdict = world.only().verdict
    assert verdict.reasons == ()
    assert "kubectl" not in verdict.remedy


def test_reasons_are_found_by_listing() -> None:
    assert set(reasons.names()) >= {"probe_refused", "exec_probe", "pre_stop_hook", "orphaned"}
    assert APP.identity.pod_uid == NETWORK.identity.pod_uid
