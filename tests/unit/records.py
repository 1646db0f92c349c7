# SPDX-License-Identifier: Apache-2.0
"""Records as the kernel side writes them, packed with the layouts that the real objects declare.

A value that is not given is zero. Kinds are numbered here as the loader would number them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from tracer.identity.resolver import Resolver
from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.schema import Schema
from tracer.probes import Probe, Stream

ANCESTOR = shipped("context").layout("kt_ancestor").struct
OBJECTS = ("context", "signals", "exits")


class Decoding(Resolver):
    """A resolver, and what a probe makes of records that refer to it, as in one session."""

    def __init__(self, probe: Probe) -> None:
        super().__init__(lambda place: None)
        self.decode = probe.decoder(Stream(self))


described = shipped


@functools.cache
def schemas() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name in OBJECTS:
        found |= described(name).schemas
    return found


@functools.cache
def kinds() -> dict[str, int]:
    return {name: number for number, name in enumerate(schemas(), 1)}


def pack(name: str, **values: Any) -> bytes:
    schema = schemas()[name]
    values.setdefault("kind", kinds()[name])
    unknown = values.keys() - {field.name for field in schema.fields}
    assert not unknown, f"struct {name}_event has no {unknown}"
    return schema.struct.pack(
        *(values.get(f.name, b"" if f.code.endswith("s") else 0) for f in schema.fields)
    )


def record(name: str, **values: Any) -> Any:
    """The same as a resolver or a probe gets it."""
    (only,) = schemas()[name].cells(memoryview(cell(pack(name, **values))))
    return only


def reversed_path(path: str | bytes) -> bytes:
    """`kt_path`: names from the leaf to the root, NUL after each."""
    raw = path.encode() if isinstance(path, str) else path
    return b"".join(name + b"\0" for name in reversed(raw.strip(b"/").split(b"/")))


def argv(*words: str | bytes) -> dict[str, Any]:
    """The members for a command line that may be longer than there is room for."""
    raw = b"".join((w.encode() if isinstance(w, str) else w) + b"\0" for w in words)
    return {"argv": raw[:1024], "argv_bytes": len(raw)}


def exe(path: str | bytes, *, whole: bool = True, deleted: bool = False) -> dict[str, Any]:
    raw = reversed_path(path)
    return {"exe": raw, "exe_bytes": len(raw), "exe_whole": whole, "exe_deleted": deleted}


def ancestry(*links: tuple[int, str]) -> dict[str, Any]:
    """Nearest first."""
    raw = b"".join(ANCESTOR.pack(pid, comm.encode()) for pid, comm in links)
    return {"ancestry": raw, "ancestors": len(links)}


def cgroup_path(path: str | bytes, *, whole: bool = True) -> dict[str, Any]:
    raw = reversed_path(path)
    return {"path": raw, "path_bytes": len(raw), "path_whole": whole}


def cells(records: Iterable[bytes]) -> bytes:
    return b"".join(map(cell, records))
