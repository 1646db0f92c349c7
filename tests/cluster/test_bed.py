# SPDX-License-Identifier: Apache-2.0
"""The cluster by itself, so that the tests of incidents may rely on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bed import OWN, PROGRAMS, SYSCTLS, Bed
from tests.cluster.build import ClusterError
from tests.support import leftovers
from tests.support.ktrace import Ktrace
from tests.support.wait import wait_for

# Each is the first, the second and the last once.
ORDERS = [
    ("apiserver", "kubelet", "containerd"),
    ("kubelet", "containerd", "apiserver"),
    ("containerd", "apiserver", "kubelet"),
]
# A bed beside the one of the session, for tests that do it violence.
OTHER = "ktrace-bed-two"


@pytest.fixture(scope="module")
def sleeper(bed: Bed) -> Iterator[str]:
    """The name of a pod that runs."""
    bed.kubectl("run", "sleeper", f"--image={bed.image}", "--", "sleep", "100000")
    bed.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=100s")
    yield "sleeper"
    bed.kubectl("delete", "pod", "sleeper", "--now")


def test_ktrace_names_the_pods(bed: Bed, sleeper: str) -> None:
    assert ("default", sleeper) in pods_that_ktrace_lists(bed)


def test_exec_and_logs(bed: Bed) -> None:
    words = ("sh", "-c", "echo from the log; exec sleep 1000")
    bed.kubectl("run", "talker", f"--image={bed.image}", "--", *words)
    bed.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=100s")
    assert bed.kubectl("logs", "talker") == "from the log\n"
    assert bed.kubectl("exec", "talker", "--", "echo", "from within") == "from within\n"
    bed.kubectl("delete", "pod", "talker", "--now")


def test_a_kubectl_of_today(bed: Bed, sleeper: str) -> None:
    listed = bed.run_kubectl(bed.new_kubectl, "get", "pods", "--output=name")
    assert f"pod/{sleeper}" in listed.splitlines()


def test_a_static_pod(bed: Bed) -> None:
    container = {"name": "app", "image": bed.image, "command": ["sleep", "1000"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "static"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    file = bed.manifests / "static.json"
    file.write_text(json.dumps(pod))
    mirror = ("default", f"static-{bed.node}")
    wait_for("the static pod", lambda: mirror in pods_that_ktrace_lists(bed), 60, interval=0.5)
    file.unlink()
    wait_for("its end", lambda: mirror not in pods_that_ktrace_lists(bed), 60, interval=0.5)


def test_a_pod_reaches_the_api_server(bed: Bed, sleeper: str) -> None:
    """From its own network, at the address in its environment, with what it has of its account: the
    server proves itself by ca.crt, and the pod by its token."""
    pid = first_pid(bed, sleeper)
    account = f"/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount"
    words = dict(
        word.split("=", 1)
        for word in Path(f"/proc/{pid}/environ").read_text().split("\0")
        if word.startswith("KUBERNETES_SERVICE_")
    )
    assert words["KUBERNETES_SERVICE_HOST"] == bed.api_address
    program = (
        "import sys; from pathlib import Path\n"
        "from tracer.kubernetes.access import find; from tracer.kubernetes.client import Client\n"
        "access = find(None, Path(sys.argv[1]))\n"
        "assert access.authority and access.bearer and not access.insecure\n"
        "print(Client(access).ask('GET', '/version')['gitVersion'])\n"
        "print(Client(access).ask('GET', '/api/v1/pods'))\n"
    )
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", program, account]
    environment = {**words, "PYTHONPATH": os.getcwd()}
    asked = bed.inside(*command, env={**os.environ, **environment})
    assert asked.stdout.startswith("v1."), asked.stderr
    who = "system:serviceaccount:default:default"
    assert f'User "{who}" cannot list resource "pods"' in asked.stderr, asked.stderr


def test_daemons_lie_where_packages_put_programs(bed: Bed) -> None:
    found = bed.inside("readlink", f"/proc/{bed.pids['kubelet']}/exe", check=True).stdout
    assert Path(found.strip()) == PROGRAMS / "kubelet"


def test_the_machine_keeps_its_settings(bed: Bed) -> None:
    """What is bound over inside is not so outside, and nothing of the node is mounted here."""
    assert not leftovers.mounts_below(bed.root)
    for place in (*OWN.values(), *(Path("/proc/sys", setting) for setting in SYSCTLS)):
        assert not os.path.ismount(place) or place == Path("/run")
        told = bed.inside("findmnt", "--noheadings", "--output=SOURCE", place, check=True).stdout
        assert str(bed.root) in told


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_daemons_stop_in_any_order_while_ktrace_traces(
    bed: Bed, sleeper: str, order: tuple[str, ...]
) -> None:
    """ktrace goes on, names what dies without them, and has all of it again afterwards."""
    pid = first_pid(bed, sleeper)
    with Ktrace("signals", "--pod", f"default/{sleeper}", inside=bed.enter) as ktrace:
        try:
            for name in order:
                bed.stop_daemon(name)
            assert not set(order) & set(bed.pids)
            os.kill(pid, signal.SIGUSR1)
            wait_for("the signal to be told", lambda: ktrace.events)
        finally:
            # as a service manager does: a kubelet ends if it finds no runtime
            for name in sorted(order, key=("containerd", "apiserver", "kubelet").index):
                bed.start_daemon(name)
        (event,) = (one for one in ktrace.stop() if one["signal"]["name"] == "SIGUSR1")
    assert event["target"]["pod"]["name"] == sleeper
    assert first_pid(bed, sleeper) == pid
    assert bed.kubectl("exec", sleeper, "--", "echo", "again") == "again\n"


def test_a_daemon_that_is_killed_is_no_fault_of_the_bed(bed: Bed) -> None:
    before = bed.pids["scheduler"]
    bed.kill_daemon("scheduler")
    assert "scheduler" not in bed.pids
    bed.start_daemon("scheduler")
    assert bed.pids["scheduler"] != before


def test_other_settings_of_the_kubelet(bed: Bed) -> None:
    def refuses_more_pods() -> bool:
        return bool(bed.get("node", bed.node)["status"]["capacity"]["pods"] == "7")

    with bed.kubelet_with(maxPods=7):
        wait_for("the kubelet's new settings", refuses_more_pods, 60, interval=0.5)
    wait_for("its old ones", lambda: not refuses_more_pods(), 60, interval=0.5)


def test_a_second_one_is_refused_and_told_who_holds_it(bed: Bed) -> None:
    with pytest.raises(ClusterError) as refused, Bed(name=bed.name):
        pass
    assert f"pid {os.getpid()} (" in str(refused.value)
    assert "pytest" in str(refused.value)
    assert bed.kubectl("get", "nodes", "--output=name") == f"node/{bed.node}\n"


def test_what_a_killed_one_left_is_cleared_by_the_next() -> None:
    """And of that one, ended in order, nothing is left at all; both are up in a short time."""
    program = (
        f"from tests.cluster.bed import Bed; Bed(name={OTHER!r}).start(); print(1, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        began = time.monotonic()
        assert holder.stdout.readline() == b"1\n"
        took = time.monotonic() - began
        holder.kill()
    left = leftovers.cgroup_processes(f"/{OTHER}")
    assert left, "the daemons outlive who started them, or this proves nothing"
    with Bed(name=OTHER) as bed:
        assert not set(left) & set(leftovers.cgroup_processes(f"/{OTHER}"))
        bed.kubectl("run", "web", f"--image={bed.image}", "--", "sleep", "1000")
        bed.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=100s")
        inside = leftovers.cgroup_processes(f"/{OTHER}")
        marks = [bed.root, Path("/sys/class/net", OTHER)]
        marks += [root / OTHER for root in leftovers.cgroup_roots()]
    assert [place for place in marks if place.exists()] == []
    wait_for("all of them to end", lambda: not any(map(runs, (*left, *inside))))
    assert results_of_the_network(OTHER) == []
    assert not (leftovers.STATE / f"{OTHER}.journal").exists()
    assert took < 120  # 13 s where nothing else runs


def test_sigterm_clears_it() -> None:
    program = (
        "import signal; from tests.cluster.bed import Bed\n"
        f"with Bed(name={OTHER!r}) as bed: print(bed.api_address, flush=True); signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout
        address = holder.stdout.readline().strip()
        assert address in addresses()
        inside = leftovers.cgroup_processes(f"/{OTHER}")
        assert inside
        holder.terminate()
        holder.wait(120)
    assert not (leftovers.STATE / f"{OTHER}.journal").exists()
    assert not Path("/sys/class/net", OTHER).exists() and address not in addresses()
    wait_for("all of them to end", lambda: not any(map(runs, inside)))


def addresses() -> str:
    return subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout


def test_a_daemon_that_does_not_start_is_told_with_its_log_and_nothing_is_left() -> None:
    broken = Bed(name=OTHER)
    broken._etcd = lambda: ["sh", "-c", "echo no room for etcd; exit 3"]  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match=r"(?s)etcd ended with 3; .*no room for etcd"):
        broken.start()
    assert not broken.root.exists()
    assert not Path("/sys/class/net", OTHER).exists()


def pods_that_ktrace_lists(bed: Bed) -> list[tuple[str, str]]:
    listed = bed.inside(sys.executable, "-m", "tracer", "pods", "-o", "json", check=True).stdout
    rows = [json.loads(line) for line in listed.splitlines()]
    return [(row["namespace"], row["pod"]) for row in rows]


def first_pid(bed: Bed, pod: str) -> int:
    listed = bed.inside(sys.executable, "-m", "tracer", "pods", "-o", "json", check=True).stdout
    rows = [json.loads(line) for line in listed.splitlines()]
    (pid,) = (row["init_pid"] for row in rows if row["pod"] == pod)
    return int(pid)


def runs(pid: int) -> bool:
    """Not so what has ended and was not yet buried."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def results_of_the_network(name: str) -> list[Path]:
    """What the CNI library notes on the machine of each sandbox in a network."""
    found = []
    for result in leftovers.CNI_RESULTS.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if name in f"{result.name} {result.read_text(errors='replace')}":
                found.append(result)
    return found
