# SPDX-License-Identifier: Apache-2.0
"""The first records of a recording that begins in the middle of a session: the ones that later
records refer to. The last of each kind and key is kept, bounded and compressed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import zstandard

from tracer.model.bounded import Spares, Table, size_of
from tracer.model.names import Names
from tracer.model.schema import Schema
from tracer.model.turn import Part, Turn
from tracer.probes import Probe

# The context of every probe, the kinds that others refer to first.
KEYS: dict[str, tuple[str, ...]] = {
    **{"cgroup": ("cgroup",), "cgroup_end": ("cgroup",)},
    "process": ("process",),
}
# In bytes, compressed. A removed cgroup is dropped together with its end.
BOUNDS = {"cgroup": 4 << 20, "cgroup_end": 1 << 20, "process": 4 << 20}
MAX_STATE = 2 << 20
CHUNK = 1024


Key = tuple[int | bytes, ...]
Known = Table[Key, bytes]


class Context:
    """A `frugal` one keeps half as much, but all of the cgroups that exist."""

    def __init__(
        self, schemas: Mapping[int, Schema], probes: Sequence[Probe], *, frugal: bool = False
    ) -> None:
        keys = dict(KEYS)
        for probe in probes:
            keys |= probe.state
        self._kinds = {schema.name: kind for kind, schema in schemas.items()}
        self._schemas = schemas
        # older recordings lack some kinds
        self._keys = {self._kinds[name]: keys[name] for name in keys if name in self._kinds}
        self._known: dict[int, Known] = {
            kind: Table(_most(schemas[kind].name, frugal), size_of) for kind in self._keys
        }
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def add(self, part: Part) -> None:
        members = self._keys.get(part.kind)
        if members is None:
            return
        schema, table = self._schemas[part.kind], self._known[part.kind]
        spares = self._spares(part.kind)
        for at, record in enumerate(schema.cells(part.cells)):
            key = tuple(getattr(record, member) for member in members)
            cell = part.cells[at * schema.cell.size : (at + 1) * schema.cell.size]
            # the compressor's result occupies its worst-case size; the copy only its own
            gone = table.keep(key, bytes(memoryview(self._compress(cell))), spares)
            if schema.name == "cgroup_end":
                for ended, _ in gone:
                    self._known[self._kinds["cgroup"]].drop(ended)

    def _spares(self, kind: int) -> Spares[Key, bytes] | None:
        """Records about a cgroup are spared while it exists."""
        members = self._keys[kind]
        if self._schemas[kind].name in KEYS or "cgroup" not in members:
            return None
        at = members.index("cgroup")
        there, ended = (self._known[self._kinds[name]] for name in ("cgroup", "cgroup_end"))
        return lambda key, _: (key[at],) in there and (key[at],) not in ended

    def used(self, processes: Iterable[int]) -> None:
        """Refreshes processes in use by events: the kernel side does not describe them again."""
        table = self._known[self._kinds["process"]]
        for process in processes:
            table.touch((process,))

    def turns(self, now: int, names: Names) -> Iterator[Turn]:
        """All kept records, as the first turns of a recording."""
        for kind, table in self._known.items():
            cells = list(table.values())
            for at in range(0, len(cells), CHUNK):
                chunk = [self._decompress(cell) for cell in cells[at : at + CHUNK]]
                yield Turn(now, [Part(kind, len(chunk), b"".join(chunk))], names=names)
                names = Names()


def _most(kind: str, frugal: bool) -> int:
    most = BOUNDS.get(kind, MAX_STATE)
    return most // 2 if frugal and kind != "cgroup" else most
