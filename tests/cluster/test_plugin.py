# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace` in real Kubernetes: in a pod that it makes and in the DaemonSet's, with an old
kubectl and one of today, with all rights and with few. Nothing stays in the cluster."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.kubernetes.build import whole
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.support.tmux import Tmux
from tests.support.wait import wait_for
from tracer import probes

# Not that of the manifest, whose end another test may still wait for.
HOME = "ktrace-there"
TIMES = 23
SECONDS = 120.0
# Connects to a closed port, and packets to another one.
KNOCK = """
import socket, sys
for _ in range(int(sys.argv[1])):
    socket.socket().connect_ex(("127.0.0.1", 9))
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
"""


class Plugin:
    """`kubectl ktrace` as somebody starts it where only kubectl is."""

    def __init__(self, bed: Bed, kubectl: Path, place: Path, kubeconfig: Path) -> None:
        self.place = place
        self._ready = place / "ready"
        programs = place / "bin"
        programs.mkdir()
        (programs / "kubectl").symlink_to(kubectl)
        self.environment = {
            "PATH": str(programs),
            "HOME": str(place),
            "KUBECONFIG": str(kubeconfig),
        }
        self.bed = bed

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, **more}
        return subprocess.Popen(
            [sys.executable, "-m", "tracer.kubectl", *words],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            **options,
        )

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=SECONDS)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def tracing(self, *words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
        """Inside the block its probes are attached."""
        self._ready.unlink(missing_ok=True)
        process = self.start(*words, "--ready-file", str(self._ready), **more)
        try:
            wait_for("ktrace", lambda: self._ready.exists() or process.poll() is not None, SECONDS)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.fixture(params=["kubectl as old as the cluster", "kubectl of today"])
def plugin(bed: Bed, ktrace_image: str, tmp_path: Path, request: pytest.FixtureRequest) -> Plugin:
    old = request.param == "kubectl as old as the cluster"
    kubectl = bed.binaries / "kubectl" if old else bed.new_kubectl
    return Plugin(bed, kubectl, tmp_path, bed.kubeconfig)


@pytest.fixture
def today(bed: Bed, ktrace_image: str, tmp_path: Path) -> Plugin:
    return Plugin(bed, bed.new_kubectl, tmp_path, bed.kubeconfig)


@pytest.fixture(autouse=True, scope="module")
def the_same_pods(bed: Bed) -> Iterator[None]:
    """Whatever the tests do: afterwards there are the pods that were there before. The kubelet
    takes some seconds to let go of one."""
    before = pods(bed)
    yield
    wait_for("what was made to be gone", lambda: pods(bed) <= before, SECONDS, interval=0.2)


@pytest.fixture(autouse=True)
def nothing_stays(bed: Bed, the_same_pods: None) -> Iterator[None]:
    yield
    assert made_pods(bed) == []


@pytest.fixture(scope="module")
def daemon_set(bed: Bed, ktrace_image: str) -> Iterator[str]:
    """The name of the pod of ktrace's that is on the node anyway."""
    bed.kubectl("apply", "--filename=-", input=manifest(bed))
    bed.kubectl("-n", HOME, "rollout", "status", "ds/ktrace", "--timeout=100s")
    (pod,) = bed.get("pods", "--namespace", HOME)["items"]
    yield pod["metadata"]["name"]
    bed.kubectl("delete", "namespace", HOME, "--wait=false")


def test_who_signals_a_pod(plugin: Plugin, victim: int) -> None:
    """In a pod that is made for it."""
    asked = ["signals", "-p", "victim", "--signal", "all", "-o", "json", "--count", str(TIMES)]
    with plugin.tracing(*asked) as tracing:
        (made,) = made_pods(plugin.bed)
        assert made["spec"]["activeDeadlineSeconds"] > 0
        assert made["metadata"]["labels"]["ktrace-owner"]
        shoot(victim)
        out, err = tracing.communicate(timeout=SECONDS)
    assert tracing.returncode == 0, err
    assert err.startswith(f"ktrace: {TIMES} events, 0 lost")
    events = [json.loads(line) for line in out.splitlines()]
    assert len(events) == TIMES
    for event in events:
        assert event["signal"]["name"] == "SIGWINCH"
        assert (event["pod"]["namespace"], event["pod"]["name"]) == ("default", "victim")
        assert (event["target"]["pid"], event["target"]["comm"]) == (victim, "sleep")
        assert (event["sender"]["pid"], event["origin"]) == (os.getpid(), "host")
        assert event["node"] == plugin.bed.node


def test_in_the_daemon_sets_pod(plugin: Plugin, victim: int, daemon_set: str) -> None:
    """Also a table; nothing is made, and ktrace ends there when it is told to."""
    words = ["signals", "-l", "run=victim", "--signal", "WINCH", f"--ktrace-namespace={HOME}"]
    with plugin.tracing(*words) as tracing:
        assert made_pods(plugin.bed) == []
        assert len(tracers(plugin)) == 2
        shoot(victim)
        tracing.send_signal(signal.SIGINT)
        out, err = tracing.communicate(timeout=SECONDS)
    assert tracing.returncode == 0, err
    title, *rows = out.splitlines()
    assert title.split()[:3] == ["TIME", "SIGNAL", "SENDER"]
    assert len(rows) == TIMES
    assert all(f"sleep[{victim}]" in row and "default/victim" in row for row in rows)
    wait_for("only the recorder to remain", lambda: len(tracers(plugin)) == 1, SECONDS)


@pytest.mark.parametrize("home", ["a pod that is made", "the DaemonSet's pod"])
def test_every_probe(today: Plugin, victim: int, daemon_set: str, home: str) -> None:
    """All attach in both, and the pod's network is the pod's."""
    words = ["trace", ",".join(probes.names()), "-p", "victim", "-o", "json"]
    if home == "the DaemonSet's pod":
        words.append(f"--ktrace-namespace={HOME}")
    inside = ["nsenter", f"--net=/proc/{victim}/ns/net"]
    rule = ["INPUT", "-p", "udp", "--dport", "9", "-j", "DROP"]
    subprocess.run([*inside, "iptables", "-A", *rule], check=True)
    try:
        with today.tracing(*words) as tracing:
            subprocess.run([*inside, sys.executable, "-c", KNOCK, str(TIMES)], check=True)
            tracing.send_signal(signal.SIGINT)
            out, err = tracing.communicate(timeout=SECONDS)
    finally:
        subprocess.run([*inside, "iptables", "-D", *rule], check=True)
    assert tracing.returncode == 0, err
    assert len(err.splitlines()) == 1, err
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["pod"]["name"] for event in events} == {"victim"}
    assert {event["node"] for event in events} == {today.bed.node}
    refused = [event for event in events if event["kind"] == "connect_failure"]
    assert [event["error"] for event in refused] == ["refused"] * TIMES
    dropped = [event for event in events if event["kind"] == "packet_drop"]
    assert sum(event["count"] for event in dropped) == TIMES


def test_nobody_holds_it_any_more(today: Plugin, daemon_set: str) -> None:
    """The plugin is killed: ktrace does not go on in the pod that stays."""
    with today.tracing("signals", f"--ktrace-namespace={HOME}") as tracing:
        assert len(tracers(today)) == 2
        tracing.kill()
    wait_for("only the recorder to remain", lambda: len(tracers(today)) == 1, SECONDS)


def test_with_few_rights(
    today: Plugin, bed: Bed, victim: int, daemon_set: str, tmp_path: Path
) -> None:
    """To see a pod, and to execute in the DaemonSet's pod."""
    rights = {"default": [("pods", "get")], HOME: [("pods", "get"), ("pods", "list")]}
    rights[HOME].append(("pods/exec", "create"))
    with a_user(bed, rights) as kubeconfig:
        (tmp_path / "few").mkdir()
        few = Plugin(bed, bed.new_kubectl, tmp_path / "few", kubeconfig)
        words = ["exits", "-p", "victim", f"--ktrace-namespace={HOME}", "--duration", "1ms"]
        told = few(*words)
        assert told.returncode == 0, told.stderr
        told = few("exits", "-p", "victim", "--ktrace-namespace=default")
        assert told.returncode == 3
        assert told.stderr.splitlines()[0] == (
            "ktrace: no right in namespace default to: create pods, list pods, watch pods,"
            " create pods/exec, delete pods"
        )
        told = few("exits")
        assert told.stderr.startswith("ktrace: no right to list nodes in the whole cluster\n")


def test_a_recording_arrives(today: Plugin, victim: int) -> None:
    """Also when it is ended by Ctrl-C."""
    file = today.place / "here.ktrace"
    words = ["record", "-o", str(file), "signals", "-p", "victim", "--signal", "WINCH"]
    with today.tracing(*words) as tracing:
        shoot(victim)
        tracing.send_signal(signal.SIGINT)
        _, err = tracing.communicate(timeout=SECONDS)
    assert tracing.returncode == 0, err
    assert f"ktrace: {file}: {file.stat().st_size} bytes" in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = today("replay", str(file), "-o", "json")
    assert told.returncode == 0, told.stderr
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [event["target"]["pid"] for event in events] == [victim] * TIMES


def test_why(today: Plugin, bed: Bed) -> None:
    bed.kubectl("run", "short", f"--image={bed.image}", "--restart=Never", "--", "sleep", "100000")
    bed.kubectl("wait", "--for=condition=Ready", "pod/short", "--timeout=100s")
    with today.tracing("why", "default/short") as asking:
        bed.kubectl("delete", "pod", "short", "--now", "--wait=false")
        out, err = asking.communicate(timeout=SECONDS)
    assert asking.returncode == 0, err
    assert out.startswith("default/short short: "), out
    assert "SIGKILL" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ends_by_signals(today: Plugin, bed: Bed, number: signal.Signals) -> None:
    """What SIGKILL keeps from being taken away says whose it is, and what takes it away."""
    with today.tracing("signals") as tracing:
        tracing.send_signal(number)
        tracing.communicate(timeout=SECONDS)
    if number == signal.SIGKILL:
        told = today("doctor", "-o", "json")
        findings = [json.loads(line) for line in told.stdout.splitlines()]
        (left,) = (one for one in findings if one["what"] == "leftover")
        program, *words = left["remedy"].split()
        assert program == "kubectl"
        bed.kubectl(*words)


def test_a_reader_that_has_seen_enough(today: Plugin, victim: int) -> None:
    reading, writing = os.pipe()
    with today.tracing("signals", "-p", "victim", stdout=writing) as tracing:
        os.close(writing)
        os.close(reading)
        _, err = tracing.communicate(timeout=SECONDS)
    assert (tracing.returncode, err) == (0, "")


def test_two_at_once_on_a_node_that_takes_no_pods(today: Plugin, bed: Bed, victim: int) -> None:
    """Cordoned and tainted: it is the node that is looked at, so it takes these."""
    bed.kubectl("cordon", bed.node)
    bed.kubectl("taint", "node", bed.node, "dedicated=db:NoSchedule")
    try:
        words = ["signals", "-p", "victim", "--signal", "all", "-o", "json", "--count", "3"]
        with today.tracing(*words) as one, today.tracing(*words) as other:
            assert len(made_pods(bed)) == 2
            for _ in range(3):
                os.kill(victim, signal.SIGWINCH)
            for tracing in (one, other):
                out, err = tracing.communicate(timeout=SECONDS)
                assert len(out.splitlines()) == 3, err
    finally:
        bed.kubectl("taint", "node", bed.node, "dedicated-")
        bed.kubectl("uncordon", bed.node)


def test_where_no_more_pods_may_be(today: Plugin, bed: Bed) -> None:
    bed.kubectl("create", "namespace", "full")
    bed.kubectl("-n", "full", "create", "quota", "none", "--hard=pods=0")
    wait_for(
        "the quota to be counted",
        lambda: bed.get("-n", "full", "quota", "none").get("status", {}).get("used"),
    )
    try:
        told = today("signals", "--ktrace-namespace=full")
        assert told.returncode == 1
        assert "exceeded quota: none" in told.stderr.splitlines()[0]
        assert "--ktrace-namespace" in told.stderr.splitlines()[1]
    finally:
        bed.kubectl("delete", "namespace", "full", "--wait=false")


def test_where_privileged_pods_are_refused(
    bed: Bed, ktrace_image: str, victim: int, tmp_path: Path
) -> None:
    """By what a cluster of this age has for that: policies, of which this user has none."""
    verbs = ("create", "get", "list", "watch", "delete")
    rights = {"default": [*(("pods", verb) for verb in verbs), ("pods/exec", "create")]}
    with (
        a_user(bed, rights) as kubeconfig,
        bed.apiserver_with("--enable-admission-plugins=PodSecurityPolicy"),
    ):
        (tmp_path / "few").mkdir()
        few = Plugin(bed, bed.new_kubectl, tmp_path / "few", kubeconfig)
        told = few("signals", "-p", "victim", "-n", "default", "--ktrace-namespace=default")
        assert told.returncode in (1, 3)
        refused, remedy = told.stderr.splitlines()
        assert "PodSecurityPolicy" in refused or "pod security policy" in refused
        assert "pod-security.kubernetes.io/enforce=privileged" in remedy


def test_the_api_server_goes_away(today: Plugin, bed: Bed, victim: int) -> None:
    """The plugin ends and says what it could not take away; ktrace ends there, and then its pod."""
    with today.tracing("signals", "-p", "victim") as tracing:
        (made,) = made_pods(bed)
        bed.kill_daemon("apiserver")
        try:
            _, err = tracing.communicate(timeout=SECONDS)
        finally:
            bed.start_daemon("apiserver")
    name = made["metadata"]["name"]
    assert tracing.returncode == 1
    assert f"/{name} was lost" in err
    assert f"pod {name} could not be deleted, and ends by itself: " in err
    uid = made["metadata"]["uid"]
    wait_for("its processes to end", lambda: not ktraces(uid), SECONDS)
    wait_for("the pod to end", lambda: phase(bed, made) in ("Succeeded", "Failed"), SECONDS)
    bed.kubectl("-n", made["metadata"]["namespace"], "delete", "pod", name, "--now")


def test_the_whole_screen(today: Plugin, bed: Bed, victim: int, tmp_path: Path) -> None:
    """With times as they are here, keys and a size that changes."""
    (tmp_path / "tmux").mkdir()
    with Tmux(tmp_path / "tmux") as tmux:
        tmux.command(
            *("env", "TZ=Asia/Kathmandu", *(f"{k}={v}" for k, v in today.environment.items())),
            *(sys.executable, "-m", "tracer.kubectl", "live", "--node", bed.node),
        )
        tmux.wait_for("+0545")
        tmux.resize(70, 20)
        wait_for("it to fit", lambda: "+0545" in tmux.screen.splitlines()[0][:70], SECONDS)
        tmux.press("q")
        tmux.wait_for("0 lost")
        wait_for("the shell", lambda: not tmux.alternate, SECONDS)
        wait_for("the pod to be taken away", lambda: made_pods(bed) == [], SECONDS)


def test_an_image_that_nobody_has(today: Plugin) -> None:
    told = today("signals", "--image=127.0.0.1:1/none:1")
    assert told.returncode == 1
    assert "does not start: " in told.stderr
    assert "ImagePull" in told.stderr
    assert "--image" in told.stderr.splitlines()[-1]


def test_the_whole_cluster(today: Plugin, bed: Bed) -> None:
    told = today("doctor")
    assert told.returncode == 0, told.stdout
    title, row, *_ = told.stdout.splitlines()
    assert title.split() == ["NODE", "KERNEL", "RUNTIME", "KTRACE", "FOUND"]
    assert row.startswith(f"{bed.node}  {os.uname().release}  containerd://")
    assert "✔" in row


def test_pods_that_are_not_there(today: Plugin) -> None:
    told = today("why", "victin", "-n", "default")
    assert told.returncode == 5
    assert "the nearest: victim" in told.stderr or "no pod 'victin'" in told.stderr
    told = today("why", "web-0", "--node", "node9", "--wait")
    assert told.stderr.startswith("ktrace: node node9 is gone\n")


def manifest(bed: Bed) -> str:
    """That of the DaemonSet, in a namespace of its own."""
    labels = "\n  labels: {pod-security"
    text = whole().replace(f"name: ktrace{labels}", f"name: {HOME}{labels}")
    text = text.replace("namespace: ktrace", f"namespace: {HOME}")
    return text.replace("path: /var/lib/ktrace,", f"path: {bed.root / 'recordings-too'},")


def shoot(victim: int) -> None:
    for _ in range(TIMES):
        os.kill(victim, signal.SIGWINCH)


def pods(bed: Bed) -> set[str]:
    return {pod["metadata"]["uid"] for pod in bed.get("pods", "--all-namespaces")["items"]}


def made_pods(bed: Bed) -> list[Any]:
    chosen = "--selector=app.kubernetes.io/managed-by=kubectl-ktrace"
    every = bed.get("pods", "--all-namespaces", chosen)["items"]
    return [pod for pod in every if not pod["metadata"].get("deletionTimestamp")]


def phase(bed: Bed, pod: Any) -> str:
    about = pod["metadata"]
    found: str = bed.get("-n", about["namespace"], "pod", about["name"])["status"]["phase"]
    return found


def tracers(plugin: Plugin) -> list[psutil.Process]:
    """Processes called ktrace in the DaemonSet's pod."""
    (pod,) = plugin.bed.get("pods", "--namespace", HOME)["items"]
    return ktraces(pod["metadata"]["uid"])


def ktraces(uid: str) -> list[psutil.Process]:
    """Processes called ktrace in this pod."""
    found = []
    for pid in pids(uid):
        try:
            process = psutil.Process(pid)
            if process.name() == "ktrace":
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


@contextmanager
def a_user(bed: Bed, rights: dict[str, list[tuple[str, str]]]) -> Iterator[Path]:
    """A kubeconfig of somebody who may do in each namespace what is listed, and nothing else."""
    bed.kubectl("create", "serviceaccount", "few")
    for namespace, allowed in rights.items():
        rules = [
            {"apiGroups": [""], "resources": [resource], "verbs": [verb]}
            for resource, verb in allowed
        ]
        about = {"name": "few", "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        subject = {"kind": "ServiceAccount", "name": "few", "namespace": "default"}
        role = {"apiGroup": group, "kind": "Role", "name": "few"}
        bed.apply(
            [
                {
                    "apiVersion": f"{group}/v1",
                    "kind": "Role",
                    "metadata": about,
                    "rules": rules,
                },
                {
                    "apiVersion": f"{group}/v1",
                    "kind": "RoleBinding",
                    "metadata": about,
                    "roleRef": role,
                    "subjects": [subject],
                },
            ]
        )
    token = wait_for("a token", lambda: _token(bed))
    configuration = json.loads(bed.kubeconfig.read_text())
    configuration["users"][0]["user"] = {"token": token}
    file = bed.root / "few.kubeconfig"
    file.write_text(json.dumps(configuration))
    file.chmod(0o600)
    try:
        yield file
    finally:
        file.unlink()
        bed.kubectl("delete", "serviceaccount", "few")
        for namespace in rights:
            bed.kubectl("-n", namespace, "delete", "role,rolebinding", "few")


def _token(bed: Bed) -> str | None:
    """Kubernetes of those days keeps it in a secret."""
    names = [one["name"] for one in bed.get("serviceaccount", "few").get("secrets", ())]
    if not names:
        return None
    data = bed.get("secret", names[0]).get("data", {})
    return base64.b64decode(data["token"]).decode() if "token" in data else None
