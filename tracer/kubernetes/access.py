# SPDX-License-Identifier: Apache-2.0
"""Where the API server is and who asks there: the service account of the pod in which this runs, or
a kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tracer.kernel import limits
from tracer.model.errors import UsageError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE = 1 << 20
_DAMAGE = (AttributeError, TypeError, ValueError)
_HOW = "run it in a pod with a service account, or give --kubeconfig FILE"


@dataclass(frozen=True)
class Access:
    """`token_file` is read again for each request: the kubelet rotates it. `authority` is the
    certificate that the server's must be signed with, None for those of this system. Certificates
    and keys are in PEM."""

    server: str
    authority: str | None = None
    insecure: bool = False
    token: str | None = None
    token_file: Path | None = None
    certificate: str | None = None
    key: str | None = None

    @property
    def bearer(self) -> str | None:
        if self.token_file is None:
            return self.token
        try:
            with self.token_file.open("rb") as file:
                return file.read(MAX_FILE).decode("ascii", "replace").strip()
        except OSError:
            return None


def find(kubeconfig: str | None, account: Path = ACCOUNT) -> Access:
    """Raises `UsageError` if there is no way to the API."""
    if kubeconfig:
        return of_kubeconfig(Path(kubeconfig))
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    token = account / "token"
    if host and token.exists():
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return Access(server, _read(account / "ca.crt"), token_file=token)
    if told := os.environ.get("KUBECONFIG"):
        return of_kubeconfig(Path(told.split(os.pathsep)[0]))
    raise UsageError("there is no way to the API of Kubernetes", _HOW)


def of_kubeconfig(path: Path) -> Access:
    """Of its current context."""
    import yaml

    try:
        told = yaml.safe_load(_read(path))
        context = _named(told, "contexts", told.get("current-context"))["context"]
        cluster = _named(told, "clusters", context.get("cluster"))["cluster"]
        user = _named(told, "users", context.get("user")).get("user") or {}
        server = str(cluster["server"])
    except (yaml.YAMLError, RecursionError, LookupError, *_DAMAGE) as error:
        raise UsageError(f"{path} is no kubeconfig with a current context", _HOW) from error
    if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).hostname:
        raise UsageError(f"{path} names no server with http or https", _HOW)
    if "exec" in user or "auth-provider" in user:
        raise UsageError(
            f"{path} gets its credentials from a program",
            "ktrace runs none: give a kubeconfig with a token or a certificate",
        )
    return Access(
        server.rstrip("/"),
        _pem(path, cluster, "certificate-authority"),
        bool(cluster.get("insecure-skip-tls-verify")),
        _text(user.get("token")),
        _file(path, user.get("tokenFile")),
        _pem(path, user, "client-certificate"),
        _pem(path, user, "client-key"),
    )


def _pem(path: Path, told: Mapping[str, Any], name: str) -> str | None:
    """In the kubeconfig itself, or in a file that it names."""
    data = told.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True).decode("ascii")
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"{path}: {name}-data is no PEM in base64") from error
    file = _file(path, told.get(name))
    return _read(file) if file else None


def _named(told: Any, kind: str, name: Any) -> Any:
    return next(one for one in [*told[kind], {}] if not one or one.get("name") == name)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _file(path: Path, value: object) -> Path | None:
    """Relative to the kubeconfig."""
    return path.parent / value if isinstance(value, str) and value else None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        why = limits.reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path} cannot be read: {why}", _HOW) from error
