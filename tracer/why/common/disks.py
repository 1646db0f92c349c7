# SPDX-License-Identifier: Apache-2.0
"""How verdicts describe file systems that are full, and the files on them."""

from __future__ import annotations

from tracer.model.units import size
from tracer.probes.columns import pod_name
from tracer.probes.disk import BLOCKS, FailureBody, FileBody, FileSystem
from tracer.why.common.phrases import who
from tracer.why.entry import Entry
from tracer.why.story import Story

RESTS_ON = frozenset(("disk",))


def failures(story: Story, *errors: str) -> list[Entry[FailureBody]]:
    found: list[Entry[FailureBody]] = story.of("disk_failure")
    return [entry for entry in found if entry.body["error"] in errors]


def files(story: Story) -> list[Entry[FileBody]]:
    found: list[Entry[FileBody]] = story.of("disk_file")
    return found


def named(system: FileSystem) -> str:
    """`/data (tmpfs, 1 MiB)`."""
    where = system["mount"] or system["device"] or "a file system that is not known"
    about = [word for word in (system["type"], size(system["size_bytes"])) if word]
    return f"{where} ({', '.join(about)})" if about else where


def lack(system: FileSystem) -> str:
    """`0 B are free`, or the inodes."""
    words = []
    if BLOCKS in (system["lacks"] or ()):
        words.append(f"{size(system['free_bytes'])} are free")
    if (system["lacks"] or [])[-1:] != [BLOCKS] and system["inodes"]:
        words.append(f"{system['free_inodes']} of {system['inodes']} inodes are free")
    return " and ".join(words)


def most(body: FailureBody) -> str:
    """Who has written most there lately."""
    for writer in body["writers"] or []:
        pod = pod_name(writer["pod"]) if writer["pod"] else None
        who_ = f"pod {pod}" if pod else "the node, outside of pods,"
        container = f" ({writer['container']})" if pod and writer["container"] else ""
        files = f" and made {writer['inodes']} files" if writer["inodes"] else ""
        return (
            f"; most was written by {who_}{container}: {size(writer['bytes'])}{files} in"
            f" {writer['seconds']} s"
        )
    return ""


def largest(body: FailureBody) -> str:
    """The largest open file there, and whose it is."""
    for file in body["largest"] or []:
        process = file["process"]
        pod = pod_name(process.place) if process else None
        whose = f" of pod {pod}" if pod else ""
        deleted = " (deleted)" if file["deleted"] else ""
        return (
            f"; the largest open file there is {file['path']}{deleted} of {who(process)}{whose},"
            f" {size(file['bytes'])}"
        )
    return ""
