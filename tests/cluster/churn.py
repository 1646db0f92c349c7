# SPDX-License-Identifier: Apache-2.0
"""Pods are replaced one after the other, and each reset must be told of the pod that it was.

    python -m tests.cluster.churn --pods 1000

What a pod was known by comes back with its successors: the number of its network namespace at
once, its address a little later. Where cgroups are hybrid, the directory of a dead pod stays in the
unified hierarchy, as the kubelet leaves it. Each pod is asked for a closed port as soon as it is
there, and again before it goes. A reset that is told of no pod is counted; one that is told of
another pod is wrong.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any

import click
from typing_extensions import Self

from tests.support.containerd import Containerd, Runtime
from tests.support.ktrace import Ktrace
from tests.support.wait import WaitTimeout, wait_for

CLOSED = 81
LIVING = 8  # pods that are there at the same time
ASKED = 2  # how often each is asked at once
# gRPC, by which the pods are made here, does not survive a fork.
OWN_INTERPRETER = ("env",)
# How long ktrace may take to know a pod, and to write an event.
PATIENCE_SECONDS = 30.0
MISTAKES_SHOWN = 3
# How long a reset is told after the answer has come, by two clocks that are one.
SLACK_NS = 1_000_000_000

FRESH, SETTLED = "fresh", "settled"


@dataclass(frozen=True)
class Asked:
    """One refused connection: who refused, and how it is known again."""

    uid: str
    address: str
    port: int  # that it was asked from
    began_ns: int
    ended_ns: int
    age: str


@dataclass
class Tally:
    """What was told of the resets. `told` counts right, wrong and unnamed by a pod's age: each
    reset is told twice, where it was sent and where it was received."""

    pods: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    late: int = 0  # pods that ktrace did not know in time
    lost: int = 0
    mistakes: list[str] = field(default_factory=list)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )

    def count(self, what: str) -> int:
        return sum(number for (_, told), number in self.told.items() if told == what)

    @property
    def wrong(self) -> int:
        return self.count("wrong")

    @property
    def missing(self) -> int:
        return 2 * self.asked.total() - self.told.total()

    @property
    def good(self) -> bool:
        """Each was told, none of a wrong pod, and the settled pods by their names."""
        unnamed = self.told[SETTLED, "unnamed"]
        return not (self.wrong or self.missing or self.late or self.lost or unnamed)

    def in_words(self) -> str:
        by_age = (
            f"{age}: "
            + ", ".join(f"{self.told[age, what]} {what}" for what in ("right", "wrong", "unnamed"))
            for age in (FRESH, SETTLED)
        )
        words = f"{self.pods} pods replaced, {self.asked.total()} connections refused, each told"
        words += f" twice; {'; '.join(by_age)}; {self.missing} not told, {self.lost} lost,"
        return f"{words} {self.late} pods not known in time"

    def as_facts(self) -> dict[str, Any]:
        told = [[*key, number] for key, number in self.told.items()]
        facts = {"pods": self.pods, "asked": dict(self.asked), "told": told}
        return {**facts, "late": self.late, "lost": self.lost, "mistakes": self.mistakes}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        told = Counter({(age, what): number for age, what, number in facts["told"]})
        return cls(**{**facts, "asked": Counter(facts["asked"]), "told": told})


class Witness:
    """Traces resets while its `with` block runs, asks pods, and judges what is told."""

    def __init__(self, cri_socket: Path) -> None:
        self.tally = Tally()
        self._asked: dict[tuple[str, int], list[Asked]] = {}
        self._offset, self._rest = 0, b""
        self._named: set[str] = set()  # uids of pods of whose resets some pod was told
        self._out = os.memfd_create("ktrace")
        self._ktrace = Ktrace(
            *("resets", "--all", "--cri-socket", str(cri_socket)),
            stdout=self._out,
            inside=OWN_INTERPRETER,
        )

    def __enter__(self) -> Self:
        self._ktrace.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ktrace.__exit__(kind, error, trace)
        os.close(self._out)

    def ask(self, uid: str, address: str, age: str, times: int = ASKED) -> None:
        """The pod is there from before the first connection to after the last one."""
        for _ in range(times):
            began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            with socket.socket() as client:
                client.bind(("", 0))
                port = client.getsockname()[1]
                refused = client.connect_ex((address, CLOSED))
            ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            assert refused == 111, f"{address} did not refuse: {os.strerror(refused)}"
            asked = Asked(uid, address, port, began, ended, age)
            self._asked.setdefault((address, port), []).append(asked)
            self.tally.asked[age] += 1

    def settle(self, pods: Mapping[str, str]) -> None:
        """Waits until ktrace says of these pods' resets whose they are, be it right or not, and
        asks all once more. Addresses by uid."""

        def known() -> bool:
            for uid in pods.keys() - self._named:
                self.ask(uid, pods[uid], FRESH, 1)
            self._read()
            return pods.keys() <= self._named

        try:
            wait_for("the pods to be known", known, PATIENCE_SECONDS, 0.1)
        except WaitTimeout:
            self.tally.late += len(pods.keys() - self._named)
        for uid, address in pods.items():
            self.ask(uid, address, SETTLED)

    def stop(self) -> Tally:
        """Ends tracing in order, and judges the rest."""
        self._ktrace.signal(2)
        code = self._ktrace.exit_code()
        assert code == 0, f"ktrace ended with {code}: {self._ktrace.stderr}"
        self._read()
        self.tally.lost = self._ktrace.summary.lost
        return self.tally

    def _read(self) -> None:
        """The whole lines that have come since."""
        size = os.fstat(self._out).st_size
        data = os.pread(self._out, size - self._offset, self._offset)
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._judge(json.loads(line))

    def _judge(self, event: dict[str, Any]) -> None:
        """The one that refused is the local end of what was sent, and the remote end of what was
        received."""
        if event["kind"] != "tcp_reset":
            return
        sent = event["direction"] == "sent"
        pods, host = ("local", "remote") if sent else ("remote", "local")
        asked = self._find(event[pods]["address"], event[host]["port"], event["boot_ns"])
        if asked is None:
            return
        own = event["pod"] if sent else None
        said = [place["uid"] for place in (own, event[pods]["pod"]) if place]
        strange = event[host]["pod"] or (not sent and event["pod"])
        if strange or any(uid != asked.uid for uid in said):
            told = "wrong"
            self.tally.mistakes.append(f"{asked.age} {asked.uid}: {json.dumps(event)}")
        else:
            told = "right" if said else "unnamed"
        if said:
            self._named.add(asked.uid)
        self.tally.told[asked.age, told] += 1

    def _find(self, address: str, port: int, boot_ns: int) -> Asked | None:
        """Addresses and ports come back: the time tells which it was."""
        for asked in self._asked.get((address, port), ()):
            if asked.began_ns <= boot_ns <= asked.ended_ns + SLACK_NS:
                return asked
        return None


class Replacing:
    """Pods made by containerd alone, of which the oldest are replaced: now one, now several
    together. Those that live at the end go with their containerd."""

    def __init__(
        self,
        containerd: Containerd,
        witness: Witness,
        living: int = LIVING,
        runtime: Runtime = "runc",
    ) -> None:
        self._witness = witness
        self._run = partial(containerd.run_pod, namespace="shop", runtime=runtime)
        self._pods = deque(self._run(f"web-{n}") for n in range(living))
        self._together = cycle(range(1, living + 1))

    def replace(self, pods: int) -> None:
        """So many."""
        while pods:
            old = [self._pods.popleft() for _ in range(min(next(self._together), pods))]
            self._witness.settle({pod.uid: pod.ip for pod in old})
            for pod in old:
                pod.remove(as_kubelet=True)
            for pod in old:
                new = self._run(pod.name)
                self._witness.ask(new.uid, new.ip, FRESH)
                self._pods.append(new)
            self._witness.tally.pods += len(old)
            pods -= len(old)


def churn(containerd: Containerd, pods: int) -> Tally:
    """Replaces so many pods of one containerd."""
    with Witness(containerd.socket) as witness:
        Replacing(containerd, witness).replace(pods)
        return witness.stop()


@click.command()
@click.option("--pods", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--guest", is_flag=True, help="In guests of the lab, on cgroup v2 only.")
def main(pods: int, guest: bool) -> None:
    """Replace pods on this machine, and judge what ktrace says of their resets."""
    if os.geteuid():
        raise click.ClickException("this needs root: it loads BPF programs and starts pods")
    started = time.monotonic()
    if guest:
        from tests.lab.replaced import replaced_in_guests

        tally = replaced_in_guests(click.echo, pods)
    else:
        with Containerd() as containerd:
            tally = churn(containerd, pods)
    click.echo(f"{tally.in_words()}; {time.monotonic() - started:.0f} s")
    for mistake in tally.mistakes[:MISTAKES_SHOWN]:
        click.echo(mistake)
    raise SystemExit(not tally.good)


if __name__ == "__main__":
    main(prog_name="python -m tests.cluster.churn")
