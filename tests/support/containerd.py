# SPDX-License-Identifier: Apache-2.0
"""Real pods for the tests and the demo, without Kubernetes.

`Containerd` runs the distribution's containerd as an instance of its own and plays the kubelet's
part: the same cgroups, log directories, labels and network namespaces as on a node.

    with Containerd() as containerd:
        pod = containerd.run_pod("web-0", labels={"app": "web"})
        container = pod.run("nginx", ["sleep", "1000"], memory_limit=32 << 20)
        os.kill(container.pid, signal.SIGKILL)
        assert container.wait_exit() == 137

Everything of the instance lies in one temporary directory; what has to lie elsewhere is written
down in a journal (see `leftovers.py`) and removed at the end, or by the next instance if this one
is killed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from tests.support import cri, image, leftovers
from tests.support.wait import PATIENCE_SECONDS, WaitTimeout, wait_for

Qos = Literal["guaranteed", "burstable", "besteffort"]
# The runtime that makes containerd's containers; the first is the default.
Runtime = Literal["runc", "crun"]

IMAGE = "ktrace.test/busybox:latest"
PAUSE_IMAGE = "ktrace.test/pause:latest"
CNI_PLUGINS = Path("/usr/lib/cni")
# Stand-ins that execute programs in a pod's network namespace, and reuse addresses soon.
EXECUTING_PLUGINS = Path(__file__).with_name("cni")
POD_LOGS = Path("/var/log/pods")
CONTAINER_LINKS = Path("/var/log/containers")

_QOS_CGROUP = {
    "guaranteed": "/kubepods",
    "burstable": "/kubepods/burstable",
    "besteffort": "/kubepods/besteffort",
}
# The kubelet's value: a container that reserved nothing dies first.
_QOS_OOM_SCORE_ADJ = {"guaranteed": -997, "burstable": 999, "besteffort": 1000}

# Pods get addresses from the block for benchmarks of network devices (RFC 2544).
_POD_ADDRESSES = ipaddress.IPv4Network("198.18.0.0/15")

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
}
# The usual directories, even if the caller's PATH lacks the superuser's programs.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ContainerdError(Exception):
    """The test containerd cannot run here, or does not start."""


class Containerd:
    """One containerd with a CRI socket of its own.

    log_root: the directory of the pods' logs, as the kubelet's /var/log/pods.
    links_root: the directory of the links to the containers' logs, or None for no links.
    extra_files: executables to add to the image, by their path in the container.
    progress: gets a short description of each step; nothing is printed.
    systemd: pods are systemd's slices, and containers its scopes (the driver of that name).
    plugins: the directory of the programs that make the pods' networks.
    """

    def __init__(
        self,
        *,
        log_root: Path = POD_LOGS,
        links_root: Path | None = CONTAINER_LINKS,
        extra_files: Mapping[str, bytes] | None = None,
        progress: Callable[[str], None] | None = None,
        timeout: float = PATIENCE_SECONDS,
        systemd: bool = False,
        plugins: Path = CNI_PLUGINS,
    ) -> None:
        self.log_root = log_root
        self.systemd = systemd
        self.links_root = links_root
        self._extra_files = extra_files
        self._progress = progress or (lambda what: None)
        self._timeout = timeout
        self._plugins = plugins
        self._journal: leftovers.Journal | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._client: cri.CriClient | None = None
        self._root: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start containerd, ready for `run_pod`. If that fails, nothing is left behind."""
        if self._journal is not None:
            raise ContainerdError("this containerd is already running")
        require_programs()
        name = f"kt-{uuid.uuid4().hex[:8]}"  # also the bridge's name: at most 15 characters
        self._journal = leftovers.Journal.open_new(name, self._shared_directories())
        try:
            self._start(name, self._journal)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill every pod and containerd, and remove all that was made. Harmless if stopped."""
        if self._journal is None:
            return
        self._progress("removing the pods and containerd")
        journal, self._journal = self._journal, None
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=self._timeout)
            self._process = None
        journal.clear()

    @property
    def root(self) -> Path:
        """The instance's directory."""
        if self._root is None:
            raise ContainerdError("this containerd has not been started")
        return self._root

    @property
    def socket(self) -> Path:
        """The CRI socket (and containerd's own)."""
        return self.root / "containerd.sock"

    @property
    def client(self) -> cri.CriClient:
        if self._client is None:
            raise ContainerdError("this containerd is not running")
        return self._client

    @property
    def pid(self) -> int:
        """The process id of containerd itself."""
        if self._process is None:
            raise ContainerdError("this containerd is not running")
        return self._process.pid

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of containerd's log."""
        log = self.root / "containerd.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def run_pod(
        self,
        name: str,
        namespace: str = "default",
        uid: str | None = None,
        labels: Mapping[str, str] | None = None,
        qos: Qos = "burstable",
        host_network: bool = False,
        host_pid: bool = False,
        share_pid: bool = False,
        cgroup_root: str = "",
        runtime: Runtime = "runc",
    ) -> PodHandle:
        """Start a pod that has no containers yet. `cgroup_root` corresponds to the kubelet's
        option; it has no other pods, and is removed with this one."""
        self._progress(f"starting pod {namespace}/{name}")
        uid = uid or str(uuid.uuid4())
        pod = PodHandle(self, name, namespace, uid, labels or {}, qos, cgroup_root, runtime)
        # Noted things will be killed and removed, so they must not exist already.
        places = [root / pod.cgroup.lstrip("/") for root in leftovers.cgroup_roots()]
        if any(place.exists() for place in [*places, pod.log_directory]):
            raise ContainerdError(f"a pod with the uid {pod.uid} is on this machine already")
        self._note("cgroup", pod.cgroup_root or pod.cgroup)
        self._note("files", pod.log_directory)
        pod._start(host_network, host_pid, share_pid)
        return pod

    @contextlib.contextmanager
    def prepared_pod(self, name: str, namespace: str) -> Iterator[str]:
        """Prepares a pod as a kubelet does before the runtime has a sandbox for it; yields the
        uid."""
        uid = str(uuid.uuid4())
        pod = PodHandle(self, name, namespace, uid, {}, "burstable", "")
        self._note("cgroup", pod.cgroup)
        self._note("files", pod.log_directory)
        for root in leftovers.cgroup_roots():
            (root / pod.cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)
        pod.log_directory.mkdir(parents=True)
        yield uid
        leftovers.remove_cgroup(pod.cgroup)
        pod.log_directory.rmdir()

    def _start(self, name: str, journal: leftovers.Journal) -> None:
        # A real path, so that it can be found in /proc/mounts.
        self._root = Path(tempfile.gettempdir()).resolve() / f"ktrace-containerd-{name}"
        journal.note("directory", self._root)
        journal.note("bridge", name)
        self._root.mkdir(mode=0o700)
        with leftovers.machine_lock():
            subnet = make_bridge(name)
        write_network(self._root / "cni", name, subnet, self._root / "addresses")
        config = self._root / "config.toml"
        snapshotter = "overlayfs" if overlay_works(self._root) else "native"
        text = configuration(
            self._root, self._root, snapshotter, self.systemd, plugins=self._plugins
        )
        config.write_text(text, encoding="utf-8")

        self._progress("starting containerd")
        with (self._root / "containerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": PATH},
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it in order
            )
        # Meanwhile, because containerd takes a moment:
        archive = self._root / "image.tar"
        image.write_archive(archive, [IMAGE, PAUSE_IMAGE], self._extra_files)
        self._client = cri.CriClient(self.socket, timeout=self._timeout)
        self._await("containerd to answer", self._answers)

        self._progress("importing the test image")
        import_image(self.socket, archive, snapshotter, self._timeout)
        # An event reports the import to the CRI plugin a little later.
        self._await("the test image to be listed", self._has_images)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise ContainerdError(
                f"containerd ended with {self._process.returncode}; its log:\n{self.log_tail()}"
            )
        if not self.socket.exists():
            return False
        try:
            return bool(self.client.version())
        except cri.CriError:
            return False

    def _has_images(self) -> bool:
        return {IMAGE, PAUSE_IMAGE} <= self.client.image_names()

    def _await(self, what: str, look: Callable[[], bool]) -> None:
        try:
            wait_for(what, look, self._timeout)
        except WaitTimeout as error:
            raise ContainerdError(f"{error}; its log:\n{self.log_tail()}") from None

    def _note(self, kind: str, value: str | Path) -> None:
        if self._journal is None:
            raise ContainerdError("this containerd is not running")
        self._journal.note(kind, value)

    def _shared_directories(self) -> list[Path]:
        """Directories shared with other programs; made if missing."""
        cgroups = [root / name for root in leftovers.cgroup_roots() for name in leftovers.KUBEPODS]
        places = [self.log_root, leftovers.SHIM_SOCKETS, leftovers.CNI_RESULTS]
        return cgroups + places + ([self.links_root] if self.links_root else [])


class PodHandle:
    """A pod that was started with `Containerd.run_pod`."""

    def __init__(
        self,
        containerd: Containerd,
        name: str,
        namespace: str,
        uid: str,
        labels: Mapping[str, str],
        qos: Qos,
        cgroup_root: str,
        runtime: Runtime = "runc",
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.uid = uid
        self.labels = dict(labels)
        self.qos = qos
        self.cgroup_root = cgroup_root
        cgroup = f"{_QOS_CGROUP[qos]}/pod{uid}"
        self.cgroup = f"{cgroup_root}{_slices(cgroup) if containerd.systemd else cgroup}"
        self.systemd = containerd.systemd
        self.log_directory = containerd.log_root / f"{namespace}_{name}_{uid}"
        self.sandbox_id = ""
        self.ip = ""  # empty if the pod uses the host's network
        self.pid = 0  # the sandbox's own process, as the host sees it
        self._containerd = containerd
        self._runtime = runtime
        self._attempts: dict[str, int] = {}
        self._links: list[Path] = []

    def run(
        self,
        name: str,
        argv: Sequence[str],
        memory_limit: int | None = None,
        env: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        mounts: Mapping[str, str] | None = None,
        volumes: Mapping[str, str] | None = None,
    ) -> ContainerHandle:
        """Start a container. The same name again is a restart: the next attempt.

        mounts: host paths, by the path in the container where they are mounted read-only.
        volumes: the same, writable.
        """
        attempt = self._attempts.get(name, -1) + 1
        self._attempts[name] = attempt
        log = self.log_directory / name / f"{attempt}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        resources = cri.message(
            "LinuxContainerResources", oom_score_adj=_QOS_OOM_SCORE_ADJ[self.qos]
        )
        if memory_limit is not None:
            resources.memory_limit_in_bytes = memory_limit
            resources.memory_swap_limit_in_bytes = memory_limit  # memory and swap together
        config = cri.message(
            "ContainerConfig",
            metadata=cri.message("ContainerMetadata", name=name, attempt=attempt),
            image=cri.message("ImageSpec", image=IMAGE),
            command=list(argv),
            envs=[cri.message("KeyValue", key=k, value=v) for k, v in (env or {}).items()],
            mounts=[
                cri.message("Mount", container_path=inside, host_path=outside, readonly=readonly)
                for where, readonly in ((mounts, True), (volumes, False))
                for inside, outside in (where or {}).items()
            ],
            labels={"io.kubernetes.container.name": name, **self._pod_labels()},
            annotations={
                "io.kubernetes.container.restartCount": str(attempt),
                **(annotations or {}),
            },
            log_path=str(log.relative_to(self.log_directory)),
            linux=cri.message(
                "LinuxContainerConfig",
                resources=resources,
                security_context=cri.message(
                    "LinuxContainerSecurityContext", namespace_options=self._namespaces
                ),
            ),
        )
        client = self._containerd.client
        container_id = client.create_container(self.sandbox_id, config, self._config)
        client.start_container(container_id)
        self._link(name, container_id, log)
        pid = client.container_status(container_id).pid
        return ContainerHandle(self, client, container_id, name, pid)

    def stop(self) -> None:
        """Kill every container of the pod and take its network away; all stay listed."""
        self._containerd.client.stop_pod_sandbox(self.sandbox_id)

    def remove(self, *, as_kubelet: bool = False) -> None:
        """Stop the pod and remove it, its cgroup and its logs. With hybrid cgroups a kubelet leaves
        the cgroup in the unified hierarchy."""
        self.stop()
        self._containerd.client.remove_pod_sandbox(self.sandbox_id)
        leftovers.remove_cgroup(self.cgroup_root or self.cgroup, leave_unified=as_kubelet)
        shutil.rmtree(self.log_directory, ignore_errors=True)
        for link in self._links:
            link.unlink(missing_ok=True)

    def processes(self) -> list[int]:
        """Every process of the pod, as the host numbers them, the sandbox's own among them."""
        return leftovers.cgroup_processes(self.cgroup)

    def _start(self, host_network: bool, host_pid: bool, share_pid: bool) -> None:
        self.log_directory.mkdir(parents=True)
        self._namespaces = cri.message(
            "NamespaceOption",
            network=cri.NODE if host_network else cri.POD,
            pid=cri.NODE if host_pid else cri.POD if share_pid else cri.CONTAINER,
            ipc=cri.POD,
        )
        self._config: Any = cri.message(
            "PodSandboxConfig",
            metadata=cri.message(
                "PodSandboxMetadata", name=self.name, uid=self.uid, namespace=self.namespace
            ),
            hostname="" if host_network else self.name,  # the host's name must not be changed
            log_directory=str(self.log_directory),
            labels={**self.labels, **self._pod_labels()},
            linux=cri.message(
                "LinuxPodSandboxConfig",
                # the runtime gets only a slice's name
                cgroup_parent=Path(self.cgroup).name if self.systemd else self.cgroup,
                security_context=cri.message(
                    "LinuxSandboxSecurityContext", namespace_options=self._namespaces
                ),
            ),
        )
        self._run_sandbox()

    def start_again(self) -> None:
        """A new sandbox for the same pod, as the kubelet makes after the old one has ended."""
        self.stop()
        self._config.metadata.attempt += 1
        self._run_sandbox()

    def _run_sandbox(self) -> None:
        client = self._containerd.client
        self.sandbox_id = client.run_pod_sandbox(self._config, self._runtime)
        status = client.pod_sandbox_status(self.sandbox_id)
        self.ip, self.pid = status.ip, status.pid or 0

    def _pod_labels(self) -> dict[str, str]:
        """The labels by which the kubelet recognises its pods and containers."""
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }

    def _link(self, name: str, container_id: str, log: Path) -> None:
        root = self._containerd.links_root
        if root is None:
            return
        root.mkdir(parents=True, exist_ok=True)
        link = root / f"{self.name}_{self.namespace}_{name}-{container_id}.log"
        self._containerd._note("link", link)
        self._links.append(link)
        link.symlink_to(log)


class ContainerHandle:
    """A container that was started with `PodHandle.run`."""

    def __init__(
        self,
        pod: PodHandle,
        client: cri.CriClient,
        container_id: str,
        name: str,
        first_pid: int | None,
    ) -> None:
        self.pod = pod
        self.id = container_id
        self.name = name
        scope = f"cri-containerd-{container_id}.scope"
        self.cgroup = f"{pod.cgroup}/{scope if pod.systemd else container_id}"
        self._client = client
        self._pid = first_pid

    @property
    def pid(self) -> int:
        """The container's first process, as the host numbers it. It may have exited since."""
        if self._pid is None:
            raise ContainerdError(f"container {self.name} exited before its pid was read")
        return self._pid

    def exec(self, argv: Sequence[str], timeout: int = 60) -> cri.ExecResult:
        """Run a command in the container: its exit code, standard output and standard error."""
        return self._client.exec_sync(self.id, argv, timeout)

    def resize(self, memory_limit: int) -> None:
        """Give the running container another limit, as the kubelet does in place."""
        self._client.update_memory_limit(self.id, memory_limit)

    def stop(self, grace_seconds: int = 30) -> None:
        """SIGTERM, and SIGKILL if the container still runs after the grace period."""
        self._client.stop_container(self.id, grace_seconds)

    def wait_exit(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Wait until the container has exited, and return its exit code."""
        wait_for(f"container {self.name} to exit", lambda: self.status().state == "exited", timeout)
        return self.status().exit_code

    def status(self) -> cri.ContainerStatus:
        """The runtime's current status of the container."""
        return self._client.container_status(self.id)

    def remove(self) -> None:
        """Remove the container, killing it if it runs. Its logs stay, as under a kubelet."""
        self._client.remove_container(self.id)

    def processes(self) -> list[int]:
        """Every process of the container, as the host numbers them."""
        return leftovers.cgroup_processes(self.cgroup)


def configuration(
    root: Path,
    state: Path,
    snapshotter: str,
    systemd: bool = False,
    plugins: Path = CNI_PLUGINS,
) -> str:
    """The configuration of a containerd that keeps everything below these two directories: `state`
    holds its socket, and data that a reboot discards."""
    values = {
        name: json.dumps(str(path))
        for name, path in {
            **{name: root / name for name in ("root", "tmp", "opt", "cni")},
            **{name: state / name for name in ("state", "runc", "crun", "containerd.sock")},
        }.items()
    }
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower the score.
    # netns_mounts_under_state_dir: so that they are recognisable as ours.
    return f"""version = 2
root = {values["root"]}
state = {values["state"]}
temp = {values["tmp"]}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = {values["containerd.sock"]}

[plugins."io.containerd.internal.v1.opt"]
path = {values["opt"]}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {json.dumps(str(plugins))}
conf_dir = {values["cni"]}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = {values["runc"]}
SystemdCgroup = {str(systemd).lower()}

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
BinaryName = "crun"
Root = {values["crun"]}
SystemdCgroup = {str(systemd).lower()}
"""


def import_image(
    socket: Path, archive: Path, snapshotter: str, timeout: float = PATIENCE_SECONDS
) -> None:
    loaded = subprocess.run(
        [
            *("ctr", "--address", str(socket), "--namespace", "k8s.io"),
            *("images", "import", "--snapshotter", snapshotter, str(archive)),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": PATH},
        timeout=timeout,
    )
    if loaded.returncode != 0:
        raise ContainerdError(f"ctr cannot import the test image: {loaded.stderr.strip()}")


def write_network(
    folder: Path, bridge: str, subnet: ipaddress.IPv4Network, addresses: Path
) -> None:
    """A bridge to the host and to the other pods, without a way out.

    The bridge already exists: if the plugin made it a gateway, it would turn on IP forwarding.
    """
    network = {
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": False,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(subnet), "gateway": str(subnet[1])}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(addresses),
                },
            }
        ],
    }
    folder.mkdir()
    (folder / "10-ktrace.conflist").write_text(json.dumps(network), encoding="utf-8")


def _slices(cgroup: str) -> str:
    """A cgroup's name under systemd's driver: each slice contains the names of its parents."""
    parts = [part.replace("-", "_") for part in cgroup.strip("/").split("/")]
    names = ("-".join(parts[: depth + 1]) for depth in range(len(parts)))
    return "".join(f"/{name}.slice" for name in names)


def require_programs() -> None:
    if os.geteuid() != 0:
        raise ContainerdError("real pods need root")
    missing = {
        package for program, package in PACKAGES.items() if not shutil.which(program, path=PATH)
    }
    if missing:
        raise ContainerdError(f"real pods need: apt-get install {' '.join(sorted(missing))}")


def overlay_works(folder: Path) -> bool:
    """Whether overlayfs can be mounted in this directory. It cannot in most containers."""
    trial = folder / "overlay-trial"
    for name in ("lower", "upper", "work", "merged"):
        (trial / name).mkdir(parents=True)
    options = ",".join(f"{name}dir={trial / name}" for name in ("lower", "upper", "work"))
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", trial / "merged"],
        check=False,
        capture_output=True,
        timeout=60,
    )
    if mounted.returncode != 0:
        return False
    subprocess.run(["umount", trial / "merged"], check=True, timeout=60)
    return True


def make_bridge(name: str) -> ipaddress.IPv4Network:
    """Make a bridge with a subnet that this machine has no route into, and return the subnet."""
    listing = _ip("-json", "route", "show", "table", "all")
    taken = []
    for route in json.loads(listing or "[]"):
        with contextlib.suppress(ValueError):  # "default" leads anywhere and hides no subnet
            taken.append(ipaddress.IPv4Network(route["dst"]))
    for subnet in _POD_ADDRESSES.subnets(new_prefix=24):
        if not any(subnet.overlaps(other) for other in taken):
            break
    else:
        raise ContainerdError(f"no free subnet in {_POD_ADDRESSES} for the pods")
    _ip("link", "add", name, "type", "bridge")
    _ip("address", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", name)
    _ip("link", "set", name, "up")
    return subnet


def add_address(bridge: str, address: ipaddress.IPv4Address) -> None:
    """One more of the machine's own, which goes with the bridge."""
    _ip("address", "add", f"{address}/32", "dev", bridge)


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", "-4", *arguments], check=False, capture_output=True, text=True, timeout=10
    )
    if done.returncode != 0:
        raise ContainerdError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
