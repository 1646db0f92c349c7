# SPDX-License-Identifier: Apache-2.0
"""`make cluster`: a node of real Kubernetes for a person, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import click

from deploy.debian import FetchError
from tests.cluster.bed import Bed
from tests.cluster.build import ClusterError
from tests.support.containerd import ContainerdError

HOW_TO = """
In other terminals, as root:

    export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
    kubectl get nodes

ktrace belongs where the node's sockets and logs are at their usual places:

    alias inside='nsenter --mount={namespace} --wdns="$PWD" --'
    inside {ktrace} pods

An incident, a container over its limit:

    inside {ktrace} why hungry --wait     # in one terminal
    kubectl apply -f {example}     # in another

Pods take the image {image}; nothing can be pulled. There is no kube-proxy and no DNS.
The daemons' logs are in {logs}. Ctrl-C takes all of it away.
"""


def main() -> None:
    if os.geteuid():
        raise SystemExit("make cluster needs root: it starts Kubernetes and makes pods")
    # ends as Ctrl-C does, so that nothing stays behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with Bed(say) as bed:
            click.echo(how_to(bed))
            signal.pause()
    except KeyboardInterrupt:
        pass
    except (ClusterError, ContainerdError, FetchError) as error:
        raise SystemExit(f"make cluster: {error}") from None


def how_to(bed: Bed) -> str:
    example = bed.root / "hungry.json"
    example.write_text(json.dumps(hungry(bed.image), indent=1))
    return HOW_TO.format(
        kubeconfig=bed.kubeconfig,
        programs=bed.binaries,
        namespace=bed.namespace,
        ktrace=Path(sys.executable).with_name("ktrace"),
        example=example,
        image=bed.image,
        logs=bed.root / "logs",
    )


def hungry(image: str) -> dict[str, object]:
    container = {
        "name": "worker",
        "image": image,
        "command": ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"],
        "resources": {"limits": {"memory": "32Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hungry"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


def say(what: str) -> None:
    click.secho(f"· {what}", dim=True, err=True)


if __name__ == "__main__":
    main()
