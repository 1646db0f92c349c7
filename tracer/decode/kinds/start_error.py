# SPDX-License-Identifier: Apache-2.0
"""Why a runtime could not start a container: the messages of runc and crun, in an event of the
kubelet, in a container's state or by themselves."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_NOTHING_RAN = "no process of the container ran"

# opencontainers/runc: libcontainer/process_linux.go, standard_init_linux.go, rootfs_linux.go
_OOM = re.compile(r"container init was OOM-killed")
_NOT_FOUND = re.compile(
    r"exec: \"(?P<what>[^\"\n]{1,512})\": executable file not found in \$PATH|"
    r"executable file `?(?P<crun>[^`\n]{1,512})`? not found in \$PATH"
)
_MISSING = re.compile(
    r"exec: \"(?P<what>[^\"\n]{1,512})\": (?:stat [^\n:]{1,512}: )?no such file or directory|"
    r"\bexec (?:(?P<script>/[^\n:]{1,512}): |user process caused:? \"?)no such file or directory"
)
_DENIED = re.compile(
    r"exec: \"(?P<what>[^\"\n]{1,512})\": (?:stat [^\n:]{1,512}: )?permission denied|"
    r"\bexec (?:(?P<other>/[^\n:]{1,512}): |user process caused:? \"?)permission denied|"
    r"exec: \"(?P<folder>[^\"\n]{1,512})\": is a directory"
)
_FORMAT = re.compile(
    r"\bexec (?:user process caused:? \"?|(?P<what>/[^\n:]{1,512}): )?exec format error"
)
_MOUNT = re.compile(
    r"error mounting \"(?P<source>[^\"\n]{1,4096})\" to rootfs at \"(?P<target>[^\"\n]{1,4096})\""
    r"(?P<rest>[^\n]{0,4096})"
)
_FOLDER = re.compile(r"chdir to cwd \(\"(?P<folder>[^\"\n]{1,4096})\"\)")
# A file of /proc or a path of a namespace: the sandbox or the process that held it has ended
_NAMESPACE = re.compile(
    r"namespace path: lstat (?P<path>/[^\s:]{1,4096}): no such file or directory"
)
# runc init died before it could say why
_SILENT = re.compile(r"can't get final child's PID from pipe: EOF")
_USER = re.compile(r"unable to find user (?P<user>[^\s:]{1,64}): no matching entries")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    return explain(line.text)


def explain(text: str) -> Answer | None:
    """What the runtime's message means; None if it is none of its known ones."""
    text = text[:8192].replace('\\"', '"')  # runc once quoted messages within messages
    if _OOM.search(text):
        return [
            f"out of memory before it began: {_NOTHING_RAN}, as its memory limit does not even hold"
            " the runtime that prepares it",
            "raise the limit; a unit may be missing in it (64 is 64 bytes, 64Mi is meant)",
        ]
    if found := _NOT_FOUND.search(text):
        what = found["what"] or found["crun"]
        return [f"{_NOTHING_RAN}: {what} is not in the image, or not in its PATH"]
    if found := _MISSING.search(text):
        if not found["what"]:
            return [
                f"{_NOTHING_RAN}: {found['script'] or 'its program'}, its interpreter or its loader"
                " is not in the image (a script's first line, a program for another C library)"
            ]
        return [f"{_NOTHING_RAN}: {found['what']} is not in the image"]
    if found := _DENIED.search(text):
        if found["folder"]:
            return [f"{_NOTHING_RAN}: {found['folder']} is a directory and no program"]
        what = found["what"] or found["other"] or "its program"
        return [
            f"{_NOTHING_RAN}: {what} may not be executed: chmod +x in the image, or it lies on a"
            " file system that is mounted noexec, or its user may not reach it"
        ]
    if found := _FORMAT.search(text):
        what = found["what"] or "its program"
        return [
            f"{_NOTHING_RAN}: {what} is for another processor, or a script without #! in its first"
            " line"
        ]
    if found := _MOUNT.search(text):
        kind = "not a directory" in found["rest"]
        why = ": one of them is a file and the other a directory" if kind else ""
        return [f"{_NOTHING_RAN}: {found['source']} could not be mounted at {found['target']}{why}"]
    if found := _FOLDER.search(text):
        return [
            f"{_NOTHING_RAN}: its working directory {found['folder']} is not there for its user"
        ]
    if found := _NAMESPACE.search(text):
        return [
            f"{_NOTHING_RAN}: it was to share the namespace {found['path']}, whose owner (the pod's"
            " sandbox, or another container) has ended"
        ]
    if _SILENT.search(text):
        return [
            f"{_NOTHING_RAN}: the runtime's own process ended before it could say why; mostly a"
            " limit of memory or processes that is too small for it, or user.max_*_namespaces: the"
            " kernel log says more"
        ]
    if found := _USER.search(text):
        return [f"{_NOTHING_RAN}: the image has no user {found['user']}"]
    return None


KIND = Kind(
    _read,
    marks=(
        *("OOM-killed", "not found in $PATH", 'exec: "', "exec /", "exec user process"),
        *('exec: \\"', "exec format error", "error mounting", "chdir to cwd"),
        *("unable to find user", "namespace path: ", "from pipe: EOF"),
    ),
    rank=30,
)
