# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.why`: `ktrace why` on a recording of 1 000 000 events of 200 pods.

Each pod has a busy container whose processes signal each other and end; then a process on the host
kills its first process. The whole command is measured, from its start to its last verdict.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.names import Container, Names, Pod
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.turn import Part, Turn
from tracer.recording.format import (
    Kind,
    block,
    by_kind,
    events_payload,
    file_header,
    json_block,
    names_json,
)
from tracer.recording.metadata import Metadata

EVENTS, PODS, WORKERS = 1_000_000, 200, 20
TURN_EVENTS = 4096
MOST_SECONDS, MOST_BYTES = 10.0, 300 << 20
BEGAN = 1_000_000_000_000
KILLER = 1  # the process that is described first
SIGUSR1, SIGTERM, SIGKILL, IGNORED = 10, 15, 9, 1


class Maker:
    """Makes records as the kernel side writes them, with the layouts of the real objects."""

    def __init__(self) -> None:
        layouts: dict[str, Schema] = {}
        for name in ("context", "signals", "exits"):
            layouts |= shipped(name).schemas
        self.by_name = {
            schema.name: schema.numbered(kind) for kind, schema in enumerate(layouts.values(), 1)
        }
        self.schemas = {schema.kind: schema for schema in self.by_name.values()}
        self.time = BEGAN

    def record(self, name: str, **values: int | bytes) -> tuple[int, bytes]:
        self.time += 10_000
        schema = self.by_name[name]
        return schema.kind, cell(schema.pack(time=self.time, **values))

    def cgroup(self, number: int, path: str) -> tuple[int, bytes]:
        raw = b"".join(part.encode() + b"\0" for part in reversed(path.strip("/").split("/")))
        return self.record("cgroup", cgroup=number, path=raw, path_bytes=len(raw), path_whole=1)

    def process(self, pid: int, cgroup: int, in_pod: int) -> tuple[int, bytes]:
        path, argv = b"worker\0bin\0", b"worker\0"
        numbers = {"process": pid, "pid": pid, "tid": pid, "pid_in_pod": in_pod, "start": BEGAN}
        where = {"cgroup": cgroup, "init_cgroup": cgroup, "pid_level": int(cgroup > 1)}
        lengths = {"exe_bytes": len(path), "exe_whole": 1, "argv_bytes": len(argv)}
        return self.record(
            "process", **numbers, **where, **lengths, comm=b"worker\0", exe=path, argv=argv
        )

    def signal(self, number: int, sender: int, target: int, result: int) -> tuple[int, bytes]:
        return self.record(
            "signal",
            **{"sender_process": sender, "sender_pid": sender, "sender_tid": sender},
            **{"target_process": target, "target_pid": target, "target_tid": target},
            **{"signal": number, "result": result},
        )

    def exit(self, pid: int, status: int) -> tuple[int, bytes]:
        return self.record(
            "exit", process_process=pid, process_pid=pid, process_tid=pid, status=status
        )


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as scratch:
        recording = Path(scratch, "storm.ktrace")
        write(recording)
        print(f"{EVENTS} events of {PODS} pods, {recording.stat().st_size / 1e6:.0f} MB")
        seconds, peak, verdicts = explained(recording)
    print(f"why: {seconds:.1f} s (at most {MOST_SECONDS:.0f}), {peak / (1 << 20):.0f} MiB resident")
    print(f"     (at most {MOST_BYTES >> 20}), {len(verdicts)} verdicts")
    right = [
        v for v in verdicts if (v["verdict"], v["certainty"]) == ("killed_from_host", "likely")
    ]
    whole = len(right) == len(verdicts) == PODS
    return not (whole and seconds <= MOST_SECONDS and peak <= MOST_BYTES)


def explained(recording: Path) -> tuple[float, int, list[dict[str, Any]]]:
    """Returns the seconds, the peak memory and the output. Probes that were not recorded become a
    doubt."""
    command = [sys.executable, "-m", "tracer", "why", str(recording), "-o", "json"]
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True)
    seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return seconds, peak, [orjson.loads(line) for line in done.stdout.splitlines()]


def write(path: Path, events: int = EVENTS) -> None:
    maker = Maker()
    metadata = Metadata(
        node="bench",
        kernel=os.uname().release,
        machine=os.uname().machine,
        boot_id="",
        ktrace="bench",
        began=BEGAN,
        clock_offset_ns=0,
        selection=Selection(),
        attached={"signals": "bench", "exits": "bench"},
        schemas=maker.schemas,
    )
    names = Names()
    for pod in range(PODS):
        uid, container = identity(pod)
        names.pods[uid] = Pod(uid, "bench", f"pod-{pod}", {})
        names.containers[container] = Container(container, "containerd", "app", uid)
    with path.open("wb") as out:
        out.write(file_header() + json_block(Kind.META, metadata.json()))
        out.write(json_block(Kind.IDENTITY, names_json(names, [])))
        for records in chunks(story(maker, events)):
            turns = [turn_of(records, maker.time)]
            payload = events_payload(turns, by_kind(turns), maker.schemas)
            out.write(block(Kind.EVENTS, payload, count=len(records), last=maker.time))
        turns = [Turn(maker.time, last=True)]
        out.write(block(Kind.EVENTS, events_payload(turns, {}, maker.schemas)))
        out.write(json_block(Kind.END, {}))


def identity(pod: int) -> tuple[str, str]:
    return f"{pod:08x}-0000-4000-8000-000000000000", f"{pod:064x}"


def story(maker: Maker, events: int = EVENTS) -> Iterator[tuple[int, bytes]]:
    """First the processes, then their actions in any order, then each container's end."""
    choose = random.Random(23)
    yield maker.cgroup(1, "/system.slice/cron.service")
    yield maker.process(KILLER, 1, KILLER)
    for pod in range(PODS):
        uid, container = identity(pod)
        yield maker.cgroup(pod + 2, f"/kubepods/burstable/pod{uid}/{container}")
        for worker in range(WORKERS):
            yield maker.process(pid_of(pod, worker), pod + 2, worker + 1)
    for _ in range(events - 2 * PODS):
        pod = choose.randrange(PODS)
        one, other = (pid_of(pod, choose.randrange(1, WORKERS)) for _ in range(2))
        what = choose.random()
        if what < 0.2:
            yield maker.exit(one, choose.choice((0, 256, SIGKILL)))
        elif what < 0.4:
            yield maker.signal(SIGTERM, one, pid_of(pod, 0), IGNORED)
        else:
            yield maker.signal(SIGUSR1, one, other, 0)
    for pod in range(PODS):
        yield maker.signal(SIGKILL, KILLER, pid_of(pod, 0), 0)
        yield maker.exit(pid_of(pod, 0), SIGKILL)


def pid_of(pod: int, worker: int) -> int:
    return 1000 + pod * WORKERS + worker


def chunks(records: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == TURN_EVENTS:
            yield chunk
            chunk = []
    yield chunk


def turn_of(records: list[tuple[int, bytes]], now: int) -> Turn:
    """Neighbours of one kind form one part."""
    parts: list[Part] = []
    for kind, raw in records:
        if parts and parts[-1].kind == kind:
            parts[-1].count += 1
            parts[-1].cells = bytes(parts[-1].cells) + raw
        else:
            parts.append(Part(kind, 1, raw))
    return Turn(now, parts)


if __name__ == "__main__":
    sys.exit(main())
