# SPDX-License-Identifier: Apache-2.0
"""One node of real Kubernetes: etcd, the control plane, kubelet, containerd and CNI plugins.

    with Bed() as bed:
        bed.apply({"apiVersion": "v1", "kind": "Pod", …, "image": bed.image …})
        bed.kubectl("wait", "--for=condition=Ready", "pod/web")
        bed.inside(sys.executable, "-m", "tracer", "pods")

The node has a mount namespace of its own: `/run`, `/var/log`, `/var/lib/kubelet`, `/var/lib/cni`
and the sysctls that a kubelet would set for the whole machine are its own there, and the programs
lie in /usr/local/sbin. It has a bridge and a cgroup of its own, too: a kubelet kills what it does
not know below its cgroup root. Pids, the network namespace and the rest of the file system are the
machine's; so there is no kube-proxy, which would write the machine's packet filter, and a service
has endpoints, but nobody forwards to them. One service works, that of the API server: its address
is the bridge's second one, on which the API server itself listens. There is no DNS.

Everything lies in one directory and one cgroup, is written down in a journal (see
tests/support/leftovers.py), and goes at the end; after a kill, when the next one begins.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.cluster import build
from tests.cluster.build import ClusterError
from tests.cluster.daemon import Daemon
from tests.support import containerd, cri, image, leftovers
from tests.support.containerd import PATH, PAUSE_IMAGE
from tests.support.wait import wait_for

NAME = "ktrace-bed"  # also the bridge's: at most 15 characters
# With a tag other than `latest`, so that Kubernetes does not try to pull it.
IMAGE = "ktrace.test/busybox:1"
PROGRAMS = Path("/usr/local/sbin")
START_SECONDS = 120.0
API_PORT = 443  # that of the service `kubernetes`
FIRST_PORT = 16443  # below those that the kernel gives to whoever asks for any

# What a kubelet sets for the whole machine unless it finds it set (protectKernelDefaults).
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# Directories of the node's own, by where they are for whoever is inside.
OWN = {
    "run": Path("/run"),
    "log": Path("/var/log"),
    "kubelet": Path("/var/lib/kubelet"),
    "cni-state": leftovers.CNI_RESULTS.parent,
}
# For openssl(1). A client of today takes no certificate without the key's identifiers.
CERTIFICATES = """
[req]
prompt = no
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:{service}, IP:{node}, DNS:kubernetes, DNS:kubernetes.default.svc
"""
MEMORY_ONLY = {"memory.available": "100Mi"}


class Bed:
    """`name` tells beds apart; there is one of each name at a time.

    eviction: the kubelet's `evictionHard`.
    extra_files: executables to add to the image, by their path in the container.
    progress: is told in a few words what is being done; nothing is printed.
    """

    node = "node1"
    image = IMAGE
    _services: ipaddress.IPv4Network

    def __init__(
        self,
        progress: Callable[[str], None] | None = None,
        *,
        name: str = NAME,
        eviction: Mapping[str, str] | None = None,
        extra_files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.name = name
        self.address = ""  # the node's: the bridge's
        self.api_address = ""  # the API server's, for pods as for everybody
        self._progress = progress or (lambda what: None)
        self._extra_files = extra_files
        self._journal: leftovers.Journal | None = None
        self._namespace: subprocess.Popen[str] | None = None
        self._daemons: dict[str, Daemon] = {}
        self._token = secrets.token_hex(16)
        self._kubelet: dict[str, Any] = {"evictionHard": dict(eviction or MEMORY_ONLY)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the node is ready for pods. If that fails, nothing is left behind."""
        if self._journal is not None:
            raise ClusterError("this bed is already running")
        containerd.require_programs()
        if missing := [one for one in ("openssl", "nsenter", "unshare") if not shutil.which(one)]:
            raise ClusterError(f"the cluster needs {', '.join(missing)}: make install")
        self._binaries = build.binaries(self._progress)
        try:
            self._journal = leftovers.Journal.open_new(self.name, OWN.values())
        except leftovers.HeldError as error:
            raise ClusterError(f"a bed is running here already: {error}") from None
        try:
            self._start(self._journal)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills everything in it and removes all that was made. Harmless if stopped."""
        if self._journal is None:
            return
        self._progress("removing the cluster")
        journal, self._journal = self._journal, None
        for daemon in reversed(self._daemons.values()):  # the kubelet first: it starts no more then
            daemon.signal(signal.SIGKILL)
        self._daemons.clear()
        if self._namespace is not None:
            self._namespace.kill()
            self._namespace.wait()
            self._namespace = None
        journal.clear()

    @property
    def root(self) -> Path:
        """Everything of the bed; the logs of its daemons are in `logs`."""
        return Path(tempfile.gettempdir()).resolve() / f"ktrace-cluster-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def manifests(self) -> Path:
        """Static pods are what lies in here."""
        return self.root / "manifests"

    @property
    def binaries(self) -> Path:
        return self._binaries

    @property
    def new_kubectl(self) -> Path:
        """A kubectl many years younger than this cluster."""
        return build.newer(self._progress) / "kubectl"

    @property
    def pids(self) -> Mapping[str, int]:
        """Of the daemons that run, by name."""
        return {name: one.pid for name, one in self._daemons.items() if one.pid is not None}

    # --- what to do with it ----------------------------------------------------------------------

    def kubectl(
        self, *words: str, input: str | None = None, check: bool = True, timeout: float = 60
    ) -> str:
        """What it prints. If it may fail (`check=False`), with what it complains about."""
        return self.run_kubectl(
            self._binaries / "kubectl", *words, input=input, check=check, timeout=timeout
        )

    def run_kubectl(
        self,
        program: Path,
        *words: str,
        input: str | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> str:
        """The same with another kubectl."""
        done = subprocess.run(
            [program, *words],
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self._client,
        )
        if check and done.returncode:
            raise ClusterError(f"kubectl {shlex.join(words)}: {done.stderr.strip()}")
        return done.stdout + ("" if check else done.stderr)

    def start_kubectl(self, *words: str) -> subprocess.Popen[str]:
        """One that goes on until it is ended, or what it asks for has ended."""
        return subprocess.Popen(
            [self._binaries / "kubectl", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._client,
        )

    @property
    def _client(self) -> dict[str, str]:
        """kubectl's environment: it keeps things in the home directory."""
        return {"PATH": PATH, "HOME": str(self.root), "KUBECONFIG": str(self.kubeconfig)}

    def import_image(self, archive: Path) -> None:
        """Into the node's containerd, as if it had been pulled."""
        containerd.import_image(self._socket, archive, self._snapshotter)

    def apply(self, manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        items = [manifest] if isinstance(manifest, Mapping) else list(manifest)
        every = {"apiVersion": "v1", "kind": "List", "items": items}
        self.kubectl("apply", "--filename=-", input=json.dumps(every))

    def get(self, *words: str) -> Any:
        """`kubectl get` as what its JSON says."""
        return json.loads(self.kubectl("get", *words, "--output=json"))

    def ask(self, path: str) -> Any:
        """The API server's JSON, sooner than kubectl would have it; None if there is none."""
        return json.loads(self._api(path) or "null")

    @property
    def namespace(self) -> Path:
        """The node's mount namespace."""
        if self._namespace is None:
            raise ClusterError("this bed is not running")
        return Path("/proc", str(self._namespace.pid), "ns", "mnt")

    @property
    def enter(self) -> tuple[str, ...]:
        """Executes the words after it in the node's mount namespace, in the same directory."""
        return ("nsenter", f"--mount={self.namespace}", f"--wdns={os.getcwd()}", "--")

    def inside(
        self, *command: str | Path, check: bool = False, timeout: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command that is expected to end: what it said. `popen` starts one that goes on."""
        options = {"capture_output": True, "stdin": subprocess.DEVNULL, **more}
        return subprocess.run(
            [*self.enter, *command], text=True, check=check, timeout=timeout, **options
        )

    def popen(self, *command: str | Path, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.enter, *command], text=True, **more)

    def start_daemon(self, name: str, *, wait: bool = True) -> None:
        """A daemon that was stopped or killed, as it was at the beginning."""
        daemon = self._daemons[name]
        daemon.start()
        if wait:
            self._await(f"{name} to be ready", daemon.answers)

    def stop_daemon(self, name: str) -> None:
        """In order, as a service manager does."""
        self._daemons[name].stop()

    def kill_daemon(self, name: str, number: int = signal.SIGKILL) -> None:
        """After SIGKILL it has ended when this returns."""
        self._daemons[name].signal(number)

    def restart(self, name: str) -> None:
        self.stop_daemon(name)
        self.start_daemon(name)

    @contextlib.contextmanager
    def kubelet_with(self, **changes: Any) -> Iterator[None]:
        """Inside the block the kubelet runs with other settings of its configuration."""
        before = dict(self._kubelet)
        try:
            self._kubelet.update(changes)
            self._write_kubelet_configuration()
            self.restart("kubelet")
            yield
        finally:
            self._kubelet = before
            self._write_kubelet_configuration()
            self.restart("kubelet")

    @contextlib.contextmanager
    def apiserver_with(self, *options: str) -> Iterator[None]:
        """Inside the block the API server runs with these options besides."""
        daemon = self._daemons["apiserver"]
        try:
            daemon.options = options
            self.restart("apiserver")
            yield
        finally:
            daemon.options = ()
            self.restart("apiserver")

    # --- its parts, in the order in which they begin ---------------------------------------------

    def _start(self, journal: leftovers.Journal) -> None:
        journal.note("directory", self.root)
        journal.note("bridge", self.name)
        journal.note("cgroup", self._cgroup)
        self._progress("preparing a node")
        self.root.mkdir(mode=0o700)
        for folder in (*OWN, "logs", "log/pods", "log/containers", "manifests", "plugins", "pki"):
            (self.root / folder).mkdir(exist_ok=True)
        with leftovers.machine_lock():
            subnet = containerd.make_bridge(self.name)
        pods, self._services = subnet.subnets()
        self.address = str(subnet[1])
        # the first address of the range is that of the service `kubernetes`
        self.api_address = str(self._services[1])
        containerd.add_address(self.name, self._services[1])
        self._make_cgroups()
        self._make_namespace()
        self._etcd_port, self._peer_port = _free_ports(2)
        self._write_certificates()
        self._write_credentials()

        self._progress("starting etcd, the API server and containerd")
        self._begin("etcd", self._etcd(), self._etcd_answers)
        self._await("etcd to answer", self._etcd_answers)
        self._begin("apiserver", self._apiserver(), partial(self._says_ok, "/readyz"))
        containerd.write_network(self.root / "cni", self.name, pods, self.root / "addresses")
        self._snapshotter = "overlayfs" if containerd.overlay_works(self.root) else "native"
        configuration = self.root / "containerd.toml"
        configuration.write_text(
            containerd.configuration(self.root, Path("/run/containerd"), self._snapshotter)
        )
        command = ["containerd", "--config", str(configuration)]
        self._begin("containerd", command, self._containerd_answers)
        pause, other = self.root / "pause.tar", self.root / "image.tar"
        image.write_archive(pause, [PAUSE_IMAGE])
        # what a pod gives as arguments is its command
        image.write_archive(other, [IMAGE], self._extra_files, entrypoint=())
        self._await("containerd to answer", self._containerd_answers)
        for archive in (pause, other):
            self.import_image(archive)
        self._await("the test images to be listed", self._has_images)
        self._await("the API server to be ready", partial(self._says_ok, "/readyz"))

        self._progress("starting the scheduler, the controller manager and the kubelet")
        self._begin("controller-manager", self._controller_manager())
        self._begin("scheduler", self._scheduler())
        self._write_kubelet_configuration()
        self._begin("kubelet", self._kubelet_command(), self._kubelet_answers)
        self._await("the node to be ready", self._is_ready)
        self._await("the default account", self._has_account)

    @property
    def _cgroup(self) -> str:
        return f"/{self.name}"

    @property
    def _socket(self) -> Path:
        return self.root / "run/containerd/containerd.sock"

    def _make_cgroups(self) -> None:
        """In each hierarchy: the kubelet's root, and a group for the daemons, by which all of them
        and their children are found at the end."""
        for root in leftovers.cgroup_roots():
            top = root / self.name
            for place in (top, top / "daemons"):
                place.mkdir()
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    inherited = place.parent / setting  # version 1 begins with none
                    if (place / "cgroup.clone_children").exists() and inherited.exists():
                        (place / setting).write_text(inherited.read_text())

    def _make_namespace(self) -> None:
        """A process holds it that does nothing else; with the last one in it all mounts go."""
        bound = [(self.root / name, place) for name, place in OWN.items()]
        bound.append((self._binaries, PROGRAMS))
        for setting, value in SYSCTLS.items():
            file = self.root / f"sysctl-{setting.replace('/', '-')}"
            file.write_text(f"{value}\n")
            bound.append((file, Path("/proc/sys", setting)))
        for place in OWN.values():
            place.mkdir(parents=True, exist_ok=True)
        lines = [shlex.join(["mount", "--bind", str(ours), str(at)]) for ours, at in bound]
        # as systemd has it: volumes may ask that mounts of the host appear in a container
        lines += ["mount --make-rshared /", "echo", "exec sleep inf"]
        script = "\n".join(["set -e", *self._joining(), *lines])
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        self._namespace = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._namespace.stdout and self._namespace.stderr
        if not self._namespace.stdout.readline():
            raise ClusterError(f"no mount namespace: {self._namespace.stderr.read().strip()}")

    def _joining(self) -> list[str]:
        """Lines by which a shell puts itself among the daemons."""
        roots = leftovers.cgroup_roots()
        files = [str(root / self.name / "daemons" / "cgroup.procs") for root in roots]
        return [f"echo $$ >{shlex.quote(file)}" for file in files]

    def _begin(
        self, name: str, command: Sequence[str], answers: Callable[[], bool] = lambda: True
    ) -> None:
        # exec'ed by the shell, so it keeps the pid
        script = "\n".join([*self._joining(), 'exec "$@"'])
        words = [*self.enter, "sh", "-ec", script, name, *command]
        self._daemons[name] = Daemon(name, words, self.root / "logs" / f"{name}.log", answers)
        self._daemons[name].start()

    def _write_certificates(self) -> None:
        """An authority, which clients and pods know, and the API server's certificate by it."""
        pki = self.root / "pki"
        told, signing = pki / "openssl.conf", pki / "ca.key"
        told.write_text(CERTIFICATES.format(service=self.api_address, node=self.address))
        key = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        new = ["openssl", "req", "-new", *key, "-config", str(told)]
        authority = ["-x509", "-extensions", "authority", "-days", "2", "-subj", f"/CN={self.name}"]
        _openssl(*new, *authority, "-keyout", str(signing), "-out", str(self._authority))
        request = pki / "server.csr"
        server = ["-subj", "/CN=kube-apiserver", "-keyout", str(self._server[1])]
        _openssl(*new, *server, "-out", str(request))
        signed = ["-CA", str(self._authority), "-CAkey", str(signing), "-CAcreateserial"]
        signed += ["-days", "2", "-extfile", str(told), "-extensions", "server"]
        words = ["openssl", "x509", "-req", "-in", str(request), *signed]
        _openssl(*words, "-out", str(self._server[0]))

    def _write_credentials(self) -> None:
        """Clients have a token that lets them do everything; accounts of pods are signed."""
        _openssl("openssl", "genrsa", "-out", str(self._key), "2048")
        private = os.open(self.root / "pki" / "tokens", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(private, "w") as tokens:
            tokens.write(f"{self._token},admin,admin,system:masters\n")
        authority = base64.b64encode(self._authority.read_bytes()).decode()
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": self.name,
                    "cluster": {"server": self._api_url, "certificate-authority-data": authority},
                }
            ],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": "admin"}}],
            "current-context": self.name,
        }
        self.kubeconfig.write_text(json.dumps(configuration, indent=1))

    @property
    def _api_url(self) -> str:
        return f"https://{self.api_address}:{API_PORT}"

    @property
    def _authority(self) -> Path:
        return self.root / "pki" / "ca.crt"

    @property
    def _server(self) -> tuple[Path, Path]:
        """The API server's certificate and key."""
        return self.root / "pki" / "server.crt", self.root / "pki" / "server.key"

    @property
    def _key(self) -> Path:
        return self.root / "pki" / "accounts.key"

    def _etcd(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{p}" for p in (self._etcd_port, self._peer_port))
        return [
            str(PROGRAMS / "etcd"),
            f"--data-dir={self.root / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        certificate, key = self._server
        return [
            str(PROGRAMS / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.api_address}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--token-auth-file={self.root / 'pki' / 'tokens'}",
            "--authorization-mode=RBAC",  # whose first rule is that `system:masters` may do all
            "--allow-privileged=true",
            # it would look the node's name up
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={self._services}",
            "--service-account-issuer=https://ktrace.test",
            f"--service-account-key-file={self._key}",
            f"--service-account-signing-key-file={self._key}",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            str(PROGRAMS / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            *("--port=0", "--secure-port=0"),
            f"--flex-volume-plugin-dir={self.root / 'plugins'}",
            f"--service-account-private-key-file={self._key}",
            f"--root-ca-file={self._authority}",  # which pods get beside their token
        ]

    def _scheduler(self) -> list[str]:
        return [
            str(PROGRAMS / "kube-scheduler"),
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            *("--port=0", "--secure-port=0"),
        ]

    def _kubelet_command(self) -> list[str]:
        return [
            str(PROGRAMS / "kubelet"),
            f"--config={self.root / 'kubelet.json'}",
            f"--kubeconfig={self.kubeconfig}",
            f"--hostname-override={self.node}",
            f"--node-ip={self.address}",
            "--container-runtime=remote",
            f"--pod-infra-container-image={PAUSE_IMAGE}",  # or it is removed when the disk is full
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            "--v=2",
        ]

    def _write_kubelet_configuration(self) -> None:
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._cgroup,
            "failSwapOn": False,
            "protectKernelDefaults": True,
            "makeIPTablesUtilChains": False,
            # that it is ready is told by then, and what has not changed as seldom as ever
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "5m",
            "resolvConf": "",
            "staticPodPath": str(self.manifests),
            "volumePluginDir": str(self.root / "plugins"),
            **self._kubelet,
        }
        (self.root / "kubelet.json").write_text(json.dumps(configuration, indent=1))

    # --- whether they are ready ------------------------------------------------------------------

    def _await(self, what: str, look: Callable[[], object]) -> None:
        """Ends at once if a daemon has ended."""

        def seen() -> bool:
            for daemon in self._daemons.values():
                daemon.complain_if_it_ended()
            return bool(look())

        wait_for(what, seen, START_SECONDS, interval=0.05)

    def _etcd_answers(self) -> bool:
        return b"true" in _body(f"http://127.0.0.1:{self._etcd_port}/health")

    def _says_ok(self, path: str) -> bool:
        return self._api(path) == b"ok"

    def _kubelet_answers(self) -> bool:
        return _body(f"https://{self.address}:10250/healthz") == b"ok"

    def _containerd_answers(self) -> bool:
        return self._cri(lambda client: bool(client.version()))

    def _has_images(self) -> bool:
        return self._cri(lambda client: {IMAGE, PAUSE_IMAGE} <= client.image_names())

    def _cri(self, ask: Callable[[cri.CriClient], bool]) -> bool:
        if not self._socket.exists():
            return False
        client = cri.CriClient(self._socket)
        try:
            return ask(client)
        except cri.CriError:
            return False
        finally:
            client.close()

    def _is_ready(self) -> bool:
        answer = self._api(f"/api/v1/nodes/{self.node}")
        conditions = json.loads(answer)["status"]["conditions"] if answer else []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _has_account(self) -> bool:
        return bool(self._api("/api/v1/namespaces/default/serviceaccounts/default"))

    def _api(self, path: str) -> bytes:
        return _body(f"{self._api_url}{path}", self._token)


def _openssl(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ClusterError(f"{shlex.join(words)}: {done.stderr.strip()}")


def _body(url: str, token: str = "") -> bytes:
    """Nothing if it does not answer, or not with success."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    # Proxies of the environment are for elsewhere; the certificates are the daemons' own.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),
    )
    try:
        with opener.open(request, timeout=5) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError):
        return b""


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in range(FIRST_PORT, 32768):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError("no free ports for the cluster")
