# SPDX-License-Identifier: Apache-2.0
"""A kubelet without a control plane: its pods are the manifests in a directory.

It kills unknown pods and changes settings of the machine, so it runs only in a guest of the lab.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from tests.support.containerd import IMAGE, Containerd

PROGRAM = Path("/usr/local/bin/kubelet")
NODE = "lab"
GRACE_SECONDS = 10  # longer than its housekeeping takes to find leftovers
END_SECONDS = 60.0


class Kubelet:
    """Runs during its `with` block, on a containerd. Its pods do not end with it."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._root = containerd.root / "kubelet"
        self._manifests = self._root / "manifests"
        self._log = self._root / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._manifests.mkdir(parents=True)
        config = self._root / "config"
        config.write_text(json.dumps(self._config()))
        endpoint = f"unix://{self._containerd.socket}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, "--config", config, "--root-dir", self._root),
                    *("--container-runtime", "remote", "--container-runtime-endpoint", endpoint),
                    *("--hostname-override", NODE, "--v", "2"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if error is not None:
            print(self.log_tail())
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        finally:
            self._process.kill()

    def run(
        self, name: str, command: Sequence[str], restarts: bool = True, **container: Any
    ) -> None:
        """Runs a pod `shop/NAME` with one container; using the name again makes another pod.
        `container` adds fields to the container."""
        app = {"name": "app", "image": IMAGE, "imagePullPolicy": "Never", "command": command}
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "restartPolicy": "Always" if restarts else "Never",
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "containers": [{**app, **container}],
            },
        }
        # the kubelet must never see it half written
        fresh = self._root / name
        fresh.write_text(json.dumps(manifest))
        fresh.rename(self._manifests / f"{name}.json")

    def remove(self, name: str) -> None:
        (self._manifests / f"{name}.json").unlink()

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "systemd" if self._containerd.systemd else "cgroupfs",
            "staticPodPath": str(self._manifests),
            "fileCheckFrequency": "1s",
            "enableServer": False,
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "failSwapOn": False,
            "nodeStatusUpdateFrequency": "5m",
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "evictionHard": {"memory.available": "1Mi"},
        }
