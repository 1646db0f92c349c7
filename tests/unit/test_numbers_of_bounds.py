# SPDX-License-Identifier: Apache-2.0
"""Each number in the tables of bounds in docs/architecture.md is the code's. What fails without the
bound itself is in test_bounds.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit import bounds
from tests.unit.test_bounds import BOUNDS, OF_PROBES
from tracer.agent import agent, feed, judge, listener, metrics, outlet, roots, runtime
from tracer.agent.history import disk, lives, store
from tracer.agent.publishers import events as made_events
from tracer.agent.publishers import otlp
from tracer.backends import core
from tracer.backends.bcc import perf, programs, text
from tracer.backends.stap import modules, program
from tracer.cli import _file, _options, _recording, _watch, decode, record
from tracer.cli import agent as agent_command
from tracer.decode import reports
from tracer.decode.kinds import free_lists, kernel_reports
from tracer.identity import (
    arguments,
    cri,
    daemon,
    docker,
    logs,
    names,
    netns,
    network_lookup,
    podman,
    resolver,
    states,
)
from tracer.kernel import cgroupfs
from tracer.kernel.bpf_object import shipped
from tracer.kubectl import agents, client, home, nodes, pieces, show, stream
from tracer.kubernetes import client as api
from tracer.kubernetes import file as file_of_events
from tracer.kubernetes import objects, watch
from tracer.live import model
from tracer.model import event, kubernetes, turn
from tracer.outputs import jsonl
from tracer.outputs.exporters import html
from tracer.outputs.exporters.html import details, folding, page
from tracer.probes import resets
from tracer.probes.oom import decoder as oom
from tracer.recording import context, flight, recorder
from tracer.recording import format as layout
from tracer.session import live, patterns, session
from tracer.why import connections, crash, dropped, entry, life, timelines, words

NS = 1_000_000_000
KIB, MIB = 1 << 10, 1 << 20
LIMITS = shipped("context").numbers("kt_limits")
STAP = "".join(path.read_text() for path in modules.scripts().rglob("*.stp"))


def entries(map_: str, of: str = "context") -> int:
    return shipped(of).maps[map_].entries


def default(function: Callable[..., Any], parameter: str) -> Any:
    return inspect.signature(function).parameters[parameter].default


def option(name: str) -> Any:
    (found,) = [one for one in agent_command.command.params if one.name == name]
    default = found.default
    return found.type.convert(default, found, None) if isinstance(default, str) else default


def in_scripts(pattern: str) -> int:
    (found,) = re.findall(pattern, STAP)
    return int(found)


# Where the page has a unit of bytes, they are bytes; else what it counts.
VALUES: dict[str, tuple[float, ...]] = {
    "`kt_ring`": (core.RING_BYTES,),
    "perf buffers, where there are no ring buffers": (perf.BUFFER_BYTES, text.SLOTS),
    "`kt_lost`": (entries("kt_lost"),),
    "programs that BCC compiled": (programs.KEPT,),
    "what BCC does": (programs.PATIENCE_SECONDS / 60,),
    "`kt_cgroups`": (entries("kt_cgroups"),),
    "`kt_processes`": (entries("kt_processes"),),
    "`kt_pids`": (_options.MAX_PIDS,),
    "executable's path in a record": (LIMITS["KT_PATH_DEPTH"], LIMITS["KT_PATH_BYTES"]),
    "arguments in a record": (shipped("context").schemas["process"].room("argv"),),
    "cgroup path in a record": (LIMITS["KT_CGROUP_DEPTH"], LIMITS["KT_CGROUP_PATH_BYTES"]),
    "depth of a cgroup before 6.1": (256 + LIMITS["KT_CGROUP_DEPTH"],),
    "ancestors": (LIMITS["KT_ANCESTORS"],),
    "records read ahead": (live.MAX_BACKLOG_BYTES,),
    "`kt_network_uses`": (entries("kt_network_uses", "network"),),
    "namespaces remembered": (
        *(netns.MAX_KNOWN, netns.MAX_USES, netns.MAX_ADDRESSES, netns.MAX_NETWORKS),
    ),
    "namespaces that may be a pod's in the making": (netns.MAX_MAKING, netns.MAKING_NS / NS),
    "namespaces that were asked about, and read addresses": (
        *(network_lookup.MAX_SEEN, network_lookup.MAX_READ),
    ),
    "namespaces whose addresses are to be read": (
        *(network_lookup.MAX_WAITING, network_lookup.MAX_ADDRESSES),
    ),
    "processes in a search for a namespace": (network_lookup.MAX_PROCESSES,),
    "events held for a name or a namespace": (session.MAX_HELD, turn.NAME_SECONDS),
    "cgroups remembered": (
        *(resolver.MAX_PLACES, resolver.MAX_PLACES // 2 // MIB, resolver.MAX_DEAD),
    ),
    "names that the session has not taken yet": (),
    "names of pods with their labels, and of containers": (resolver.MAX_NAMES,),
    "labels of a pod": (cri.MAX_LABELS,),
    "processes remembered": (resolver.MAX_PROCESSES, resolver.MAX_IMAGES),
    "patterns of like records": (
        *(patterns.MAX_PATTERNS, _recording.PATTERNS // MIB),
        _recording.EXPORTED_PATTERNS // MIB,
    ),
    "JSON of processes and pods that may be told again": (
        *(event.MAX_JSON, event.MAX_RECORDED_JSON // MIB),
    ),
    "lines of JSON that may come again at another time": (
        *(jsonl.MAX_LINES, jsonl.MAX_RECORDED // MIB),
    ),
    "arguments read from `/proc`": (arguments.PROC_READS_A_SECOND,),
    "cgroups looked at at the start": (cgroupfs.MAX_CGROUPS,),
    "former settings of the wall clock, for what is told late and for what is too old": (
        event.MAX_OFFSETS,
    ),
    "cgroups looked at after ends were lost": (cgroupfs.MAX_CGROUPS, session.CHECK_NS / NS),
    "an answer of a runtime, Docker or podman, or podman's file": (
        *(cri.MAX_ANSWER, default(cri.CriSource.__init__, "timeout")),
    ),
    "names in a log directory": (logs.MAX_ENTRIES,),
    "recorded turns that are not yet written": (
        *(recorder.FLUSH_NS / NS, recorder.FLUSH_EVENTS, recorder.FLUSH_BYTES),
    ),
    "a block of a recording": (layout.MAX_BLOCK, 2, layout.MAX_RUNS.bit_length() - 1),
    "layouts in a recording": (layout.MAX_SCHEMAS, layout.MAX_FIELDS, layout.MAX_RECORD),
    "the flight recorder's window": (flight.MAX_WINDOW,),
    "flight recordings": (record.MAX_FLIGHTS,),
    "context for a file that begins in the middle": (
        context.BOUNDS["cgroup"],
        *(context.BOUNDS[kind] // MIB for kind in ("process", "cgroup_end")),
        context.MAX_STATE // MIB,
    ),
    "a silent source of names": (default(names.NameService.__init__, "patience"),),
    "cgroups of a pod whose memory is read after an OOM kill": (oom.MAX_PARTS,),
    "timelines of `why` and `live`": (
        *(timelines.MAX_LIVES, timelines.MAX_SHOWN, timelines.MAX_RECORDED // MIB),
    ),
    "drops in other pods' networks that `why` looks up for connects": (
        *(dropped.MAX_DROPPED, dropped.MAX_DROPPED, dropped.MAX_DROPPED),
    ),
    "resets whose other end `why` looks for": (connections.MAX_CONNECTIONS,),
    "sorts of other ends of an entry's resets": (entry.MAX_OTHERS,),
    "entries of a timeline": (entry.MAX_ALIKE, life.MAX_GROUPS),
    "services of one entry of a timeline that are told apart": (entry.MAX_FOLDED,),
    "resets that may have been the kernel's own call": (resets._MAX_SUSPECTS,),
    "commands executed in a container whose rhythm `why` knows": (
        *(life.MAX_COMMANDS, entry.MAX_GAPS),
    ),
    "containers of a pod whose states `why` asks for": (
        *(states.MAX_CONTAINERS, states.MAX_MESSAGE),
    ),
    "ended containers that are not asked about again": (cri.MAX_ENDED,),
    "containers that `why` may be asked about, whose names are late": (_watch.MAX_UNDECIDED,),
    "verdicts told and pods gone that `why` remembers": (_watch.MAX_TOLD,),
    "losses that `why` tells apart": (timelines.MAX_LOSSES,),
    "pods that `live` shows": (model.MAX_PODS,),
    "events that `live` shows as a stream": (model.MAX_STREAM, model.MAX_STREAM_BYTES),
    "events that `live` keeps of each pod besides": (
        *(model.MAX_ALARMS, model.MAX_OTHERS, model.MAX_TOLD, model.MAX_PODS_BYTES),
    ),
    "roots of containers that `why` and the agent hold open": (crash.MAX_ROOTS,),
    "refused processes that `why` knows of from the kernel log": (crash.MAX_FAULTS,),
    "folders of Python packages in which a crash's library is looked for": (
        *(crash.MAX_ENTRIES, crash.MAX_IN_FOLDER),
    ),
    "what is mapped by the ancestors of a worker that crashed": (crash.MAX_KIN, crash.MAX_MAPS),
    "what hints look at of a command line": (words.MAX_WORDS, words.MAX_LENGTH),
    "a program's file that is searched for a function": (crash.MAX_FILE, crash.MAX_TABLE),
    "a line that `decode` reads": (decode.MAX_LINE,),
    "what `decode` keeps of a report": (
        *(reports.MAX_VICTIMS, reports.MAX_ZONES, reports.TASKS_SHOWN),
    ),
    "a report that `decode` waits for": (
        *(kernel_reports.PATIENCE_BEFORE, kernel_reports.PATIENCE_AFTER, decode.PATIENCE),
    ),
    "zones of which `decode` has free lists": (free_lists.MAX_ZONES,),
    "what Kubernetes says of pods": (
        *(kubernetes.MAX_FACTS, kubernetes.MAX_OF_POD, timelines.MAX_RECORDED),
    ),
    "an Event or a pod of Kubernetes": (objects.MAX_MESSAGE, objects.MAX_CONTAINERS),
    "an answer of the API server": (api.MAX_ANSWER, api.SECONDS, api.MAX_LINE),
    "rows of a page (`report`)": (folding.MAX_ROWS,),
    "details in a page": (details.MAX_DETAILS,),
    "verdicts and losses that a page keeps, verdicts that it tells, lanes, rows of its tables": (
        *(html.MAX_VERDICTS, page.MAX_TOLD, page.MAX_LANES, page.MAX_TABLE),
    ),
    "patterns of like records of which a page knows the row": (folding.MAX_PATTERNS,),
    "facts from the API server that wait": (watch.MAX_WAITING,),
    "a file with Events": (file_of_events.MAX_FILE,),
    "answers that `decode` remembers, to tell each once": (decode.MAX_SAID,),
    "what staprun keeps for us": (int(program.BUFFER_MEGABYTES) * MIB,),
    "a SystemTap line": (
        8 * KIB,  # its own: STP_BUFFER_SIZE
        in_scripts(r"used \+ bytes >= (\d\d+)"),
    ),
    "what SystemTap's programs say": (program.KEPT_LINES, 300),
    "building a module": (modules.BUILD_SECONDS / 60,),
    "a publisher's queues": (outlet.MAX_QUEUE,),
    "events that become items for publishers": (feed.MAX_EVENTS_A_SECOND,),
    "verdicts told, and containers about to be judged": (judge.MAX_TOLD,),
    "containers of which the agent has looked for the root": (roots.MAX_SEEN,),
    "roots that the agent has let go and that wait to be closed": (roots.MAX_CLOSING,),
    "containers whose runtime has still to say why they failed to start": (
        *(runtime.MAX_AWAITED, runtime.WORDS_SECONDS),
    ),
    "connections of the listener": (
        *(listener.MAX_CONNECTIONS, listener.DEADLINE_SECONDS, listener.MAX_REQUEST),
    ),
    "failures that a publisher says": (outlet.MAX_TOLD, outlet.MAX_WORDS),
    "a request to an OpenTelemetry collector": (otlp.MAX_REQUEST, otlp.TIMEOUT_SECONDS),
    "series of a metric of what happened": (metrics.MAX_SERIES, metrics.MAX_VALUE),
    "Events made, and pods that they are on": (made_events.MAX_KNOWN,),
    "Events that are made": (
        made_events.POD_BURST,
        made_events.POD_SECONDS / 60,
        made_events.NODE_BURST,
    ),
    "the file with options": (_file.MAX_FILE,),
    "the history, its index included": (
        option("history_time") / 86400,
        option("history_max_size"),
        option("history_max_share"),
    ),
    "a recording of the history": (store.MAX_PART,),
    "the index of the history": (),
    "blocks of the history that wait for the disk": (disk.MAX_PENDING,),
    "blocks of which the place is remembered for verdicts": (store.MAX_PLACES,),
    "lives and verdicts that wait for a block": (store.MAX_ENTRIES,),
    "containers of which the history has been told": (lives.MAX_NOTED,),
    "nodes that are asked at once": (nodes.MAX_NODES,),
    "what agents tell of their histories": (agents.MAX_KEPT,),
    "what an agent says besides": (agents.MAX_SAID, client.MAX_COMPLAINT),
    "recordings of a `--cut` from one node": (pieces.MAX_FILES,),
    "an answer of kubectl": (client.MAX_ANSWER, client.ANSWER_SECONDS, home.MAX_WATCHED),
    "what kubectl complains about": (client.MAX_COMPLAINT,),
    "a line of a node": (show.MAX_LINE,),
    "events of several nodes that are put in order": (show.MAX_HELD,),
    "a pod that is made": (
        home.START_SECONDS / 60,
        home.DEADLINE_SECONDS / 3600,
        (home.START_SECONDS + 60) / 60,
    ),
    "silence on the way to a node": (stream.SILENT_SECONDS,),
}
VALUES |= {
    "what the agent remembers of cgroups that are removed, of processes, of programs with their"
    " arguments, and of names": (
        *(resolver.FRUGAL_DEAD, resolver.FRUGAL_PROCESSES, resolver.FRUGAL_IMAGES),
        resolver.FRUGAL_NAMES,
    ),
    "context of the agent's recordings, besides cgroups that exist": (),
    "records in one turn of the agent, and recorded ones that are not yet written": (
        live.FRUGAL_SLICE_BYTES,
    ),
    "the agent's timelines, and JSON that may be told again": (
        *(agent.MAX_TIMELINES, agent.MAX_JSON),
    ),
    "containers of which the agent has looked for the root": (roots.MAX_SEEN,),
    "containers whose runtime has still to say why they failed to start": (
        *(runtime.MAX_AWAITED, runtime.WORDS_SECONDS),
    ),
}
VALUES |= {what: (entries(what.split("`")[1], of),) for what, of in OF_PROBES.items()}
VALUES |= {what: bound.numbers for what, _, bound in bounds.of_probes()}
UNITS = {"KiB": KIB, "MiB": MIB, "GiB": 1 << 30}


@pytest.mark.parametrize("what", BOUNDS)
def test_they_are_the_codes(what: str) -> None:
    assert what in VALUES, f"the row {what} has no values here"
    found = re.findall(r"(\d[\d,]*)(?: ([KMG]iB))?", BOUNDS[what])
    told = [int(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in found]
    assert told == list(VALUES[what])


def test_bounds_that_share_a_number() -> None:
    assert netns.MAX_INODES == netns.MAX_ADDRESSES
    assert netns.MAX_UNASKED == network_lookup.MAX_SEEN
    assert cri.MAX_ANSWER == daemon.MAX_ANSWER
    for source in (docker.DockerSource, podman.PodmanSource):
        assert default(source.__init__, "timeout") == default(cri.CriSource.__init__, "timeout")
    assert html.MAX_LOSSES == html.MAX_VERDICTS
    assert judge.MAX_DUE == judge.MAX_TOLD
    assert recorder.FRUGAL_FLUSH_BYTES == live.FRUGAL_SLICE_BYTES
    assert stream.MAX_LINE == show.MAX_LINE


def test_who_is_given_no_bound_has_the_pages() -> None:
    for make, parameter, most in (
        (kubernetes.Facts.__init__, "most", 8 * MIB),
        (watch.Cluster.__init__, "most", 4 * MIB),
        (outlet.Outlet.__init__, "most", 4 * MIB),
        (timelines.Timelines.__init__, "most", 8 * MIB),
        (session.Session.__init__, "patterns", 4 * MIB),
    ):
        assert default(make, parameter) == most, make
