# SPDX-License-Identifier: Apache-2.0
"""Names from the kubelet's log directories, for nodes whose runtime does not answer.

    /var/log/pods/<namespace>_<pod>_<uid>/<container>/
    /var/log/containers/<pod>_<namespace>_<container>-<container id>.log → …/pods/<…>/…

Only names are read: no file is opened and no link is followed. Namespaces and pods are DNS names
without underscores, so a directory's name has only one reading. Labels are not known here.
"""

import os
import re
from collections.abc import Iterator
from itertools import islice

from tracer.kernel import limits
from tracer.model.names import (
    Container,
    Names,
    NameSourceError,
    Pod,
    is_plausible_name,
    normalise_uid,
)

# A node runs a few hundred pods; reading stops at this many entries.
MAX_ENTRIES = 20_000


class LogDirectorySource:
    """The pods and containers that have log files below `root`."""

    def __init__(self, root: str = "") -> None:
        self.name = "log directories"
        self._pods = f"{root}/var/log/pods"
        self._containers = f"{root}/var/log/containers"

    def snapshot(self) -> Names:
        """The names in the directories now; none if this node has no kubelet."""
        names = Names()
        for entry in _entries(self._pods):
            pod = _pod(_readable(entry.name))
            if pod is not None and entry.is_dir(follow_symlinks=False):
                names.pods[pod.uid] = pod
        for entry in _entries(self._containers):
            if entry.is_symlink():
                container = _container(_readable(entry.name), _target(entry.path))
                if container is not None:
                    names.containers[container.id] = container
        return names

    def close(self) -> None:
        """Nothing is kept open."""


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from islice(entries, MAX_ENTRIES)
    except FileNotFoundError:
        # Not an error: the kubelet makes it with the first pod.
        return
    except OSError as error:
        raise NameSourceError(f"cannot list {directory}: {limits.reason(error)}") from error


def _pod(directory: str) -> Pod | None:
    parts = directory.split("_", 2)
    if len(parts) != 3 or not all(map(is_plausible_name, parts)):
        return None
    namespace, name, uid = parts
    return Pod(normalise_uid(uid), namespace, name)


_LOG = re.compile(r"(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<name>.+)-(?P<id>[0-9a-f]{64})\.log")


def _container(link: str, target: str) -> Container | None:
    log = _LOG.fullmatch(link)
    if log is None or not is_plausible_name(log["name"]):
        return None
    # The link's own name lacks the pod's uid; the directory it points into has it.
    directory = re.search(r"(?:^|/)pods/([^/]+)/", target)
    pod = _pod(directory[1]) if directory else None
    if pod is not None and (pod.namespace, pod.name) != (log["namespace"], log["pod"]):
        pod = None
    return Container(log["id"], name=log["name"], pod_uid=pod.uid if pod else None)


def _target(link: str) -> str:
    try:
        return _readable(os.readlink(link))
    except OSError:  # rotated away since it was listed
        return ""


def _readable(name: str) -> str:
    """The name in printable form: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
