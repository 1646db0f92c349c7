# SPDX-License-Identifier: Apache-2.0
"""Whatever docs/architecture.md says is bounded has a test that fails without the bound. Those that
belong to nothing else stand here."""

from __future__ import annotations

import ast
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.wait import wait_for
from tests.unit import bounds, records
from tests.unit.cli import test_watch
from tests.unit.decode.test_reports import NOBODY, report
from tests.unit.identity import test_netns, test_network_lookup
from tests.unit.probes.test_resets import CLOSE, FIN_WAIT1, reset
from tests.unit.recording import test_recording as recordings
from tests.unit.why import test_executed
from tests.unit.why.world import APP, RUNC, World, place_of, process
from tracer import probes
from tracer.backends import core
from tracer.backends.bcc import perf
from tracer.backends.bcc import programs as bcc
from tracer.backends.stap import modules as stap_modules
from tracer.backends.stap import program as stap_program
from tracer.cli import _options, _watch
from tracer.cli import decode as decode_command
from tracer.cli import record as record_command
from tracer.cli import root as root_command
from tracer.decode import reports as oom_reports
from tracer.decode.kinds import free_lists, kernel_reports
from tracer.decode.text import Decoder
from tracer.identity import cri, netns, network_lookup
from tracer.identity.resolver import Resolver
from tracer.kernel.bpf_object import shipped
from tracer.kernel.kmsg import Line
from tracer.kubectl import client, home
from tracer.live import player
from tracer.live.node import NodeFeed
from tracer.model import event, kubernetes
from tracer.model.batch import cell
from tracer.model.errors import BadRecording, KtraceError, UsageError
from tracer.model.event import Clock
from tracer.model.names import Names, Pod
from tracer.model.selection import Selection
from tracer.model.turn import Part, Turn
from tracer.probes import Stream, resets
from tracer.probes.oom import decoder as oom_decoder
from tracer.recording import context, flight, recorder
from tracer.recording import format as layout
from tracer.recording.files import SingleFile
from tracer.session import live, patterns
from tracer.session import session as session_module
from tracer.session.session import Session
from tracer.why import crash, entry, explained, life, timelines, words

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"

UNIT, HERE = "tests/unit", "tests/unit/test_bounds.py"
KUBERNETES = f"{UNIT}/kubernetes"
RESOLVER = f"{UNIT}/identity/test_resolver.py"
NETNS, LOOKUP = f"{UNIT}/identity/test_netns.py", f"{UNIT}/identity/test_network_lookup.py"
ENGINE, NETWORK = f"{UNIT}/why/test_engine.py", f"{UNIT}/why/test_network.py"
CONNECTING = f"{UNIT}/why/test_connecting.py"
RECORDING = f"{UNIT}/recording/test_recording.py"
FILES = f"{UNIT}/recording/test_recording_files.py"
BCC = f"{UNIT}/backends/test_bcc.py"
MODEL, CRI = f"{UNIT}/live/test_model.py", f"{UNIT}/identity/test_cri.py"
HTML = f"{UNIT}/outputs/test_html.py"
KUBECTL = f"{UNIT}/kubectl"
AGENT = f"{UNIT}/agent"
OUTLET, HISTORY = f"{AGENT}/test_outlet.py", f"{AGENT}/test_history.py"
SIDES, STAP = "tests/kernel/test_sides.py", f"{UNIT}/backends/test_stap.py"

# Each row of the tables by what stands in front, and what fails without its bound.
TESTS: dict[str, tuple[str, ...]] = {
    "`kt_ring`": (
        f"{HERE}::test_the_kernels_tables",
        "tests/kernel/test_storm.py::test_at_full_speed",
    ),
    "perf buffers, where there are no ring buffers": (f"{HERE}::test_sizes_of_buffers",),
    "`kt_lost`": (f"{HERE}::test_the_kernels_tables",),
    "programs that BCC compiled": (f"{BCC}::test_the_cache_is_bounded",),
    "what BCC does": (
        f"{BCC}::test_a_bcc_that_hangs",
        f"{HERE}::test_patience",
    ),
    "`kt_cgroups`": (f"{HERE}::test_the_kernels_tables",),
    "`kt_processes`": (f"{HERE}::test_the_kernels_tables",),
    "`kt_pids`": (f"{HERE}::test_the_kernels_tables", f"{HERE}::test_too_many_pids"),
    "executable's path in a record": (f"{SIDES}::test_a_long_path_and_long_arguments",),
    "arguments in a record": (f"{SIDES}::test_a_long_path_and_long_arguments",),
    "cgroup path in a record": (
        f"{HERE}::test_a_path_that_is_too_deep",
        f"{SIDES}::test_a_cgroup_that_lies_deep",
    ),
    "depth of a cgroup before 6.1": (f"{HERE}::test_the_way_to_a_cgroup_has_an_end",),
    "ancestors": (f"{SIDES}::test_ancestry",),
    "records read ahead": (f"{UNIT}/session/test_session.py::test_the_backlog_is_bounded",),
    "`kt_network_uses`": (f"{HERE}::test_the_kernels_tables",),
    "namespaces remembered": (
        f"{NETNS}::test_tables_are_bounded_in_bytes",
        f"{HERE}::test_a_namespace_that_many_cgroups_use",
        f"{HERE}::test_an_address_that_many_namespaces_have",
    ),
    "namespaces that may be a pod's in the making": (f"{HERE}::test_namespaces_in_the_making",),
    "namespaces that were asked about, and read addresses": (
        f"{HERE}::test_what_a_lookup_remembers_is_bounded",
        f"{NETNS}::test_tables_are_bounded_in_bytes",
    ),
    "namespaces whose addresses are to be read": (
        f"{HERE}::test_a_storm_of_namespaces",
        f"{LOOKUP}::test_a_namespace_with_more_addresses_than_are_kept",
    ),
    "processes in a search for a namespace": (f"{HERE}::test_a_search_among_many_processes",),
    "events held for a name or a namespace": (
        f"{UNIT}/session/test_session.py::test_not_too_many_events_wait",
        f"{UNIT}/session/test_session.py::test_an_event_is_shown_without_a_name_when_the_time_is_up",
        f"{UNIT}/session/test_waiting_for_networks.py::test_a_second_at_most",
    ),
    "cgroups remembered": (
        f"{RESOLVER}::test_tables_are_bounded",
        f"{RESOLVER}::test_tables_are_bounded_in_bytes",
    ),
    "names that the session has not taken yet": (
        f"{UNIT}/identity/test_names.py::test_answers_that_nobody_takes_are_one",
    ),
    "names of pods with their labels, and of containers": (
        f"{RESOLVER}::test_tables_are_bounded_in_bytes",
    ),
    "labels of a pod": (f"{HERE}::test_a_pod_with_too_many_labels",),
    "processes remembered": (
        f"{RESOLVER}::test_tables_are_bounded",
        f"{RESOLVER}::test_tables_are_bounded_in_bytes",
    ),
    "JSON of processes and pods that may be told again": (
        f"{UNIT}/model/test_bounded.py::test_only_so_much_json_is_kept",
        f"{UNIT}/model/test_bounded.py::test_who_is_frugal_keeps_less_json",
    ),
    "lines of JSON that may come again at another time": (
        f"{UNIT}/outputs/test_views.py::test_only_so_many_lines_are_kept",
    ),
    "arguments read from `/proc`": (
        f"{RESOLVER}::test_a_storm_of_processes_does_not_become_a_storm_of_reads",
    ),
    "cgroups looked at at the start": (
        f"{UNIT}/kernel/test_cgroupfs.py::test_a_forest_of_cgroups_has_an_end",
    ),
    "former settings of the wall clock, for what is told late and for what is too old": (
        f"{UNIT}/agent/test_clocks.py::test_former_clocks_are_bounded",
    ),
    "cgroups looked at after ends were lost": (
        f"{UNIT}/session/test_lost_ends.py::test_what_cannot_be_seen_is_not_gone",
        f"{UNIT}/session/test_lost_ends.py::test_looking_has_a_pause",
    ),
    "an answer of a runtime, Docker or podman, or podman's file": (
        f"{CRI}::test_huge_answer",
        f"{CRI}::test_slow_runtime",
        f"{UNIT}/identity/test_docker.py::test_huge_answer",
        f"{UNIT}/identity/test_podman.py::test_a_file_that_is_too_large",
    ),
    "names in a log directory": (f"{UNIT}/identity/test_logs.py::test_directories_are_bounded",),
    "recorded turns that are not yet written": (
        f"{RECORDING}::test_nothing_waits_in_memory_for_longer_than_a_second",
        f"{HERE}::test_recorded_turns_are_written_when_they_are_many",
    ),
    "a block of a recording": (
        f"{RECORDING}::test_a_decompression_bomb",
        f"{RECORDING}::test_a_huge_length",
        f"{RECORDING}::test_turns_are_not_believed",
    ),
    "layouts in a recording": (
        f"{RECORDING}::test_what_a_file_says_of_itself_is_not_believed",
        f"{HERE}::test_a_recording_with_too_many_layouts",
    ),
    "the flight recorder's window": (
        f"{FILES}::test_the_window_is_bounded_in_bytes",
        f"{HERE}::test_the_disk_that_a_window_takes",
        f"{FILES}::test_a_flight_has_the_minutes_before_and_some_after",
    ),
    "flight recordings": (
        f"{FILES}::test_flights_take_no_more_than_they_may",
        f"{HERE}::test_flights_have_a_size_anyway",
    ),
    "context for a file that begins in the middle": (
        f"{FILES}::test_context_is_bounded_in_bytes",
        f"{HERE}::test_context_of_other_kinds",
        f"{FILES}::test_of_cgroups_that_are_gone_only_the_last_are_kept",
    ),
    "a silent source of names": (
        f"{UNIT}/identity/test_names.py::test_hanging_source_is_given_up_and_taken_back",
    ),
    "cgroups of a pod whose memory is read after an OOM kill": (
        f"{UNIT}/probes/test_oom.py::test_shares_are_bounded",
        f"{HERE}::test_told_memory_of_too_many_cgroups",
    ),
    "patterns of like records": (
        f"{UNIT}/session/test_patterns.py::test_patterns_are_bounded",
        f"{HERE}::test_patterns_of_each_command",
    ),
    "timelines of `why` and `live`": (
        f"{ENGINE}::test_lives_are_bounded_in_bytes",
        f"{HERE}::test_timelines_of_each_command",
        f"{HERE}::test_timelines_of_a_recording",
        f"{ENGINE}::test_what_lives_outlasts_what_has_ended",
    ),
    "drops in other pods' networks that `why` looks up for connects": (
        f"{CONNECTING}::test_the_latest_drops_are_kept",
    ),
    "resets whose other end `why` looks for": (
        f"{NETWORK}::test_the_other_ends_are_counted_and_not_kept",
    ),
    "sorts of other ends of an entry's resets": (f"{HERE}::test_other_ends_of_many_sorts",),
    "entries of a timeline": (
        f"{ENGINE}::test_a_storm_does_not_push_out_what_matters",
        f"{HERE}::test_a_timeline_with_too_many_groups",
    ),
    "services of one entry of a timeline that are told apart": (
        "tests/unit/why/test_connecting.py::test_destinations_beyond_what_is_told_apart",
    ),
    "resets that may have been the kernel's own call": (f"{HERE}::test_suspected_resets",),
    "commands executed in a container whose rhythm `why` knows": (
        f"{HERE}::test_rhythms_of_many_commands",
        f"{HERE}::test_a_long_rhythm",
    ),
    "containers of a pod whose states `why` asks for": (
        f"{CRI}::test_states_are_bounded",
        f"{CRI}::test_states",
    ),
    "ended containers that are not asked about again": (f"{HERE}::test_ends_that_are_remembered",),
    "containers that `why` may be asked about, whose names are late": (
        f"{HERE}::test_containers_whose_names_are_late",
    ),
    "verdicts told and pods gone that `why` remembers": (
        f"{HERE}::test_stops_that_are_remembered",
    ),
    "losses that `why` tells apart": (f"{ENGINE}::test_losses_are_bounded",),
    "pods that `live` shows": (f"{MODEL}::test_the_quietest_pod_leaves",),
    "events that `live` shows as a stream": (
        f"{MODEL}::test_what_stands_out_outlives_a_storm_of_what_does_not",
        f"{MODEL}::test_what_is_kept_is_bounded_in_bytes",
    ),
    "events that `live` keeps of each pod besides": (
        f"{MODEL}::test_only_so_much_that_stands_out_is_kept",
        f"{UNIT}/live/test_told.py::test_they_are_bounded",
        f"{MODEL}::test_what_stands_out_outlives_a_storm_of_what_does_not",
        f"{MODEL}::test_what_is_kept_is_bounded_in_bytes",
    ),
    "roots of containers that `why` and the agent hold open": (
        f"{HERE}::test_roots_that_are_held_open",
    ),
    "refused processes that `why` knows of from the kernel log": (
        f"{HERE}::test_what_the_kernel_log_told",
    ),
    "folders of Python packages in which a crash's library is looked for": (
        f"{HERE}::test_a_folder_with_too_many_names",
        f"{HERE}::test_too_many_folders",
    ),
    "what is mapped by the ancestors of a worker that crashed": (
        f"{HERE}::test_too_many_ancestors",
    ),
    "what hints look at of a command line": (
        f"{HERE}::test_a_command_line_that_is_long",
        f"{UNIT}/why/test_words.py::test_of_any_command_line_a_bounded_part_is_looked_at",
    ),
    "a program's file that is searched for a function": (
        f"{HERE}::test_a_program_that_is_too_large",
    ),
    "a line that `decode` reads": (f"{HERE}::test_a_line_without_an_end",),
    "what `decode` keeps of a report": (f"{HERE}::test_a_report_of_many",),
    "a report that `decode` waits for": (
        f"{HERE}::test_a_report_that_does_not_end",
        f"{UNIT}/decode/test_reports.py::test_a_report_is_told_when_nothing_more_comes",
    ),
    "zones of which `decode` has free lists": (f"{HERE}::test_free_lists_of_many_zones",),
    "what Kubernetes says of pods": (
        f"{KUBERNETES}/test_objects.py::test_facts_have_a_bound",
        f"{KUBERNETES}/test_objects.py::test_events_of_one_pod_have_a_bound",
        f"{HERE}::test_facts_with_a_recording",
    ),
    "an Event or a pod of Kubernetes": (
        f"{KUBERNETES}/test_objects.py::test_texts_are_cut_and_are_one_line",
        f"{KUBERNETES}/test_objects.py::test_containers_of_a_pod_have_a_bound",
    ),
    "an answer of the API server": (
        f"{KUBERNETES}/test_client.py::test_an_answer_without_an_end",
        f"{KUBERNETES}/test_client.py::test_an_answer_that_trickles",
        f"{KUBERNETES}/test_client.py::test_a_line_without_an_end",
    ),
    "facts from the API server that wait": (
        f"{KUBERNETES}/test_watch.py::test_what_waits_is_bounded_in_bytes_and_counted",
    ),
    "rows of a page (`report`)": (
        f"{HTML}::test_ten_thousand_events_are_a_small_page",
        f"{HTML}::test_folding_counts_everything",
    ),
    "details in a page": (f"{HTML}::test_what_a_page_holds_is_bounded",),
    "verdicts and losses that a page keeps, verdicts that it tells, lanes, rows of its tables": (
        f"{HTML}::test_what_a_page_holds_is_bounded",
    ),
    "patterns of like records of which a page knows the row": (
        f"{HTML}::test_patterns_are_folded_as_events",
    ),
    "Events made, and pods that they are on": (
        f"{AGENT}/test_events.py::test_what_it_remembers_is_bounded",
    ),
    "Events that are made": (
        f"{AGENT}/test_events.py::test_too_many_of_one_pod",
        f"{AGENT}/test_events.py::test_too_many_of_the_node",
    ),
    "a file with Events": (f"{KUBERNETES}/test_file.py::test_a_file_that_is_too_large",),
    "answers that `decode` remembers, to tell each once": (f"{HERE}::test_answers_told_again",),
    "what staprun keeps for us": (f"{HERE}::test_what_staprun_is_told_to_keep",),
    "a SystemTap line": (
        f"{UNIT}/backends/test_stap_lines.py::test_output_without_an_end_is_not_kept",
        f"{HERE}::test_the_tables_of_scripts",
    ),
    "what SystemTap's programs say": (f"{HERE}::test_a_program_that_says_much",),
    "building a module": (f"{STAP}::test_a_compiler_that_hangs", f"{HERE}::test_patience"),
    "a publisher's queues": (
        f"{OUTLET}::test_a_full_queue_drops_and_counts",
        f"{OUTLET}::test_a_storm_of_events_does_not_push_a_verdict_out",
    ),
    "events that become items for publishers": (
        f"{AGENT}/test_feed.py::test_a_storm_is_cut_off_and_counted",
    ),
    "a request to an OpenTelemetry collector": (
        f"{AGENT}/test_otlp.py::test_requests_are_bounded",
    ),
    "series of a metric of what happened": (
        f"{AGENT}/test_prometheus.py::test_series_are_bounded",
        f"{AGENT}/test_prometheus.py::test_labels_are_bounded",
    ),
    "verdicts told, and containers about to be judged": (
        f"{AGENT}/test_judge.py::test_what_it_remembers_is_bounded",
    ),
    "what the agent remembers of cgroups that are removed, of processes, of programs with their"
    " arguments, and of names": (
        f"{RESOLVER}::test_a_frugal_one_remembers_less_of_what_is_gone",
        f"{AGENT}/test_agent.py::test_it_is_frugal",
    ),
    "context of the agent's recordings, besides cgroups that exist": (
        f"{FILES}::test_a_frugal_context_keeps_half",
    ),
    "records in one turn of the agent, and recorded ones that are not yet written": (
        f"{UNIT}/session/test_session.py::test_a_frugal_turn_is_small",
        f"{HERE}::test_recorded_turns_are_written_when_they_are_many",
    ),
    "the agent's timelines, and JSON that may be told again": (
        f"{AGENT}/test_agent.py::test_it_is_frugal",
        f"{UNIT}/model/test_bounded.py::test_who_is_frugal_keeps_less_json",
    ),
    "containers of which the agent has looked for the root": (
        f"{AGENT}/test_roots.py::test_what_is_remembered_is_bounded",
    ),
    "roots that the agent has let go and that wait to be closed": (
        f"{AGENT}/test_roots.py::test_what_waits_to_be_closed_is_bounded",
    ),
    "containers whose runtime has still to say why they failed to start": (
        f"{AGENT}/test_runtime.py::test_what_is_awaited_is_bounded",
        f"{AGENT}/test_runtime.py::test_a_runtime_that_says_nothing",
    ),
    "connections of the listener": (
        f"{AGENT}/test_listener.py::test_silent_peers_keep_nobody_out",
        f"{AGENT}/test_listener.py::test_a_peer_that_never_ends_is_left",
        f"{AGENT}/test_listener.py::test_nonsense",
    ),
    "failures that a publisher says": (f"{OUTLET}::test_failures_that_vary_are_not_all_told",),
    "the file with options": (f"{AGENT}/test_options.py::test_no_file",),
    "the history, its index included": (
        f"{HISTORY}::test_bytes_are_bounded",
        f"{HISTORY}::test_time_is_bounded",
        f"{HISTORY}::test_a_share_of_the_file_system",
    ),
    "a recording of the history": (
        f"{HISTORY}::test_parts_are_small_enough_to_go_one_by_one",
        f"{HISTORY}::test_a_recording_lasts_an_hour",
    ),
    "the index of the history": (f"{HISTORY}::test_the_index_is_bounded",),
    "blocks of the history that wait for the disk": (
        f"{HISTORY}::test_a_slow_disk_holds_nobody_up",
    ),
    "blocks of which the place is remembered for verdicts": (
        f"{HISTORY}::test_evidence_of_long_ago",
    ),
    "lives and verdicts that wait for a block": (f"{HISTORY}::test_many_at_once",),
    "containers of which the history has been told": (
        f"{AGENT}/test_lives.py::test_what_is_remembered_is_bounded",
    ),
    "nodes that are asked at once": (
        f"{KUBECTL}/test_nodes.py::test_too_many_at_once",
        f"{KUBECTL}/test_history.py::test_how_many_are_asked_at_once",
    ),
    "an answer of kubectl": (
        f"{KUBECTL}/test_client.py::test_an_answer_without_an_end",
        f"{KUBECTL}/test_client.py::test_one_that_does_not_answer",
        f"{HERE}::test_answers_of_kubectl",
    ),
    "what agents tell of their histories": (
        f"{KUBECTL}/test_history.py::test_what_is_kept_is_bounded",
    ),
    "what an agent says besides": (
        f"{KUBECTL}/test_history.py::test_what_an_agent_says_besides_is_bounded",
    ),
    "recordings of a `--cut` from one node": (
        f"{KUBECTL}/test_history.py::test_files_are_bounded",
    ),
    "what kubectl complains about": (f"{KUBECTL}/test_client.py::test_complaints_are_bounded",),
    "a line of a node": (f"{KUBECTL}/test_streams.py::test_a_line_without_an_end",),
    "events of several nodes that are put in order": (
        f"{KUBECTL}/test_streams.py::test_what_is_held_is_bounded",
        f"{KUBECTL}/test_streams.py::test_who_says_nothing_holds_the_others_for_a_moment_only",
    ),
    "a pod that is made": (
        f"{KUBECTL}/test_homes.py::test_the_pod_that_is_made",
        f"{KUBECTL}/test_homes.py::test_a_pod_that_is_made_has_an_end_anyway",
        f"{KUBECTL}/test_homes.py::test_an_image_that_cannot_be_pulled",
    ),
    "silence on the way to a node": (
        f"{KUBECTL}/test_streams.py::test_a_silent_node_is_given_up",
        f"{KUBECTL}/test_leash.py::test_the_holder_falls_silent",
    ),
}


def rows() -> Iterator[tuple[str, str]]:
    """Of the tables of bounds: what, and how much."""
    section = PAGE.read_text().partition("## What is bounded")[2].partition("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) >= 2 and cells[0] != "what":
            yield cells[0], cells[1]


BOUNDS = dict(rows())
# The tables of one probe: `kt_reported` (exits).
OF_PROBES = {what: found[1] for what in BOUNDS if (found := re.match(r"`kt_\w+` \((\w+)\)", what))}
TESTS |= dict.fromkeys(OF_PROBES, (f"{HERE}::test_the_tables_of_probes",))
TESTS |= {
    what: tuple(f"{path.relative_to(ROOT)}::{test}" for test in bound.tests)
    for what, path, bound in bounds.of_probes()
}


def test_every_bound_has_a_test() -> None:
    assert len(BOUNDS) == len(list(rows())) > 60
    assert BOUNDS.keys() - TESTS.keys() == set(), "they have no test"
    assert TESTS.keys() - BOUNDS.keys() == set(), "the page does not tell of them"


@pytest.mark.parametrize("what", TESTS)
def test_the_tests_are_there(what: str) -> None:
    for test in TESTS[what]:
        path, _, name = test.partition("::")
        assert name in functions(ROOT / path), f"{path} has no {name}"


@cache
def functions(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in found if isinstance(node, ast.FunctionDef)}


def number(what: str, which: int = 0) -> int:
    """One of the numbers that the page tells of it."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    found = re.findall(r"(\d[\d,]*)(?: ([KMG]iB))?", BOUNDS[what])
    told, unit = found[which]
    return int(told.replace(",", "")) * units.get(unit, 1)


# In the kernel

_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _RINGBUF = 1, 2, 6, 9, 27


@pytest.mark.parametrize(
    ("what", "in_object", "type"),
    [
        ("`kt_ring`", "context", _RINGBUF),
        ("`kt_lost`", "context", _PERCPU_ARRAY),
        ("`kt_cgroups`", "context", _LRU_HASH),
        ("`kt_processes`", "context", _LRU_HASH),
        ("`kt_pids`", "context", _HASH),
        ("`kt_network_uses`", "network", _LRU_HASH),
    ],
)
def test_the_kernels_tables(what: str, in_object: str, type: int) -> None:
    """As the kernel makes them, so large and no larger, and those forget that are said to."""
    name = what.split("`")[1]
    shape = shipped(in_object).maps[name]
    assert (shape.entries, shape.type) == (number(what), type)
    assert (type == _LRU_HASH) == ("LRU" in BOUNDS[what])


@pytest.mark.parametrize(("what", "in_object"), OF_PROBES.items())
def test_the_tables_of_probes(what: str, in_object: str) -> None:
    test_the_kernels_tables(what, in_object, _LRU_HASH if "LRU" in BOUNDS[what] else _HASH)


@pytest.mark.parametrize("name", probes.names())
def test_every_table_of_a_probe_has_a_row(name: str) -> None:
    """Those with a key of their own: an array of the kernel's grows no more."""
    tables = shipped(probes.get(name).object).maps
    growing = {
        table for table, shape in tables.items() if shape.type not in (_ARRAY, _PERCPU_ARRAY)
    }
    assert [table for table in growing if not any(f"`{table}`" in what for what in BOUNDS)] == []


def test_sizes_of_buffers() -> None:
    assert number("`kt_ring`") == core.RING_BYTES
    assert number("perf buffers, where there are no ring buffers") == perf.BUFFER_BYTES


def test_patience() -> None:
    assert 60 * number("what BCC does") == bcc.PATIENCE_SECONDS
    assert 60 * number("building a module") == stap_modules.BUILD_SECONDS


def test_the_tables_of_scripts() -> None:
    """As large as the kernel's."""
    text = "".join(path.read_text() for path in (ROOT / "stap").rglob("*.stp"))
    for what in ("`kt_cgroups`", "`kt_processes`", "`kt_reported` (exits)"):
        assert f"global {what.split('`')[1]}%[{number(what)}]" in text


def test_too_many_pids() -> None:
    most = number("`kt_pids`")
    assert most == _options.MAX_PIDS
    values: dict[str, Any] = dict.fromkeys(("pods", "namespaces", "containers", "labels"), ())
    with pytest.raises(UsageError, match=f"at most {most:d} processes"):
        _options.selection({**values, "pids": tuple(range(1, most + 2)), "everything": False})


def test_a_path_that_is_too_deep() -> None:
    """Of a cgroup that is found by looking."""
    most, most_bytes = number("cgroup path in a record"), number("cgroup path in a record", 1)
    schema = records.schemas()["cgroup"]
    for path in ("/x" * (most + 5), ("/" + "y" * 300) * (most + 5)):
        found: Any = SimpleNamespace(id=1, path=path)
        packed = live.described(found, schema, now=1)
        (record,) = schema.cells(memoryview(cell(packed)))
        assert record.path_bytes <= most_bytes
        told = record.path[: record.path_bytes].split(b"\0")[:-1]
        assert len(told) <= most
        assert path.startswith("/" + "/".join(name.decode() for name in reversed(told)))


def test_the_way_to_a_cgroup_has_an_end() -> None:
    """The verifier lets no loop pass that has none, and the page tells the same number."""
    headers = ROOT / "probes" / "include"
    climbed = re.search(r"climbed < (\d+) &&", (headers / "compat.h").read_text())
    own = shipped("context").numbers("kt_limits")["KT_CGROUP_DEPTH"]
    assert climbed
    assert int(climbed[1]) + own == number("depth of a cgroup before 6.1")


# Names and namespaces


def test_a_pod_with_too_many_labels() -> None:
    assert number("labels of a pod") == cri.MAX_LABELS
    fitting = {f"{n:04}": "v" * 60 for n in range(cri.MAX_LABELS // 64)}
    assert cri._user_labels(fitting) == fitting
    assert cri._user_labels(fitting | {"x": ""}) is None, "they are unknown, and not none"


def test_ends_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert number("ended containers that are not asked about again") == cri.MAX_ENDED
    monkeypatch.setattr(cri, "MAX_ENDED", 3)
    source = cri.CriSource("/nowhere")
    asked: list[str] = []

    def ask(method: str, **fields: Any) -> Any:
        asked.append(fields["container_id"])
        end = SimpleNamespace(finished_at=1, exit_code=1, reason="", message="")
        return SimpleNamespace(status=end)

    for name in "abcdda":
        metadata = SimpleNamespace(name="app")
        source._state(SimpleNamespace(id=name, state=2, metadata=metadata, created_at=0), ask)
    assert asked == ["a", "b", "c", "d", "a"]


def test_a_namespace_that_many_cgroups_use() -> None:
    assert number("namespaces remembered", 1) == netns.MAX_USES
    told = test_netns.Told()
    for cgroup in range(1, 3 * netns.MAX_USES):
        told.container(cgroup, cgroup)
        told.use(7, cgroup)
    assert len(told.networks._networks[7].uses) == netns.MAX_USES


def test_an_address_that_many_namespaces_have() -> None:
    told = test_netns.Told()
    for network in range(1, 30):
        told.address(network, "10.1.0.5")
    (having,) = told.networks._by_address.values()
    assert list(having) == list(range(30 - netns.MAX_NETWORKS, 30))
    assert number("namespaces remembered", 3) == netns.MAX_NETWORKS


def test_namespaces_in_the_making() -> None:
    """Programs of the node execute in them."""
    most, seconds = (number("namespaces that may be a pod's in the making", n) for n in (0, 1))
    assert (most, seconds * 10**9) == (netns.MAX_MAKING, netns.MAKING_NS)
    told = test_netns.Told()
    for network in range(1, most + 8):
        told.use(network, 0, netns=network)
    assert list(told.networks._making) == list(range(8, most + 8))
    told.networks._forget_made(test_netns.EARLIER + netns.MAKING_NS + most)
    assert len(told.networks._making) < most


def test_what_a_lookup_remembers_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_lookup, "MAX_SEEN", 20_000)
    monkeypatch.setattr(network_lookup, "MAX_READ", 20_000)
    node = test_network_lookup.Node(tmp_path)
    node.process(10, "one", "10.1.0.5")
    looked = test_network_lookup.Looked(node)
    try:
        for network in range(1, 500):
            looked.use(network, 10, "one", time=network)
        looked.records("network_address", 499)
        assert 10 < len(looked.lookup._seen) < 200
        assert 10 < len(looked.lookup._addresses) < 200
    finally:
        looked.lookup.close()


def test_a_storm_of_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that find no room it is said at once that no addresses will be told."""
    most = number("namespaces whose addresses are to be read")
    assert most == network_lookup.MAX_WAITING
    monkeypatch.setattr(network_lookup, "MAX_WAITING", 0)
    node = test_network_lookup.Node(tmp_path)
    node.process(10, "one", "10.1.0.5")
    looked = test_network_lookup.Looked(node)
    try:
        looked.use(7, 10, "one")
        assert looked.addresses(7, 1) == [netns.NO_ADDRESS]
        assert looked.lookup._addresses == {}
    finally:
        looked.lookup.close()


def test_a_search_among_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert number("processes in a search for a namespace") == network_lookup.MAX_PROCESSES
    monkeypatch.setattr(network_lookup, "MAX_PROCESSES", 3)
    node = test_network_lookup.Node(tmp_path)
    for pid in (1, 2, 3, 4):
        node.process(pid, f"of {pid}")
    looked = test_network_lookup.Looked(node)
    try:
        looked.event(7, "of 3")
        assert [record.pid for record in looked.records("network", 1)] == [3]
        looked.event(8, "of 4")
        assert [record.pid for record in looked.records("network", 2)] == [3, 0]
    finally:
        looked.lookup.close()


# Recordings


def test_recorded_turns_are_written_when_they_are_many(tmp_path: Path) -> None:
    what = "recorded turns that are not yet written"
    told = number(what), number(what, 1), number(what, 2)
    assert told == (1, recorder.FLUSH_EVENTS, recorder.FLUSH_BYTES)
    script = recordings.Script([])
    resolver = Session(script, recordings.PROBES, Selection(), None, Clock(0)).resolver

    def written(name: str, frugal: bool = False, count: int = 512, apart_ns: int = 0) -> int:
        """After how many turns, so far apart; 0 if after none of these."""
        file = tmp_path / f"{name}-{frugal}-{count}"
        out = recorder.Recorder(
            *(SingleFile(file), recordings.metadata(), recordings.PROBES, recordings.fail),
            frugal=frugal,
        )
        empty = file.stat().st_size
        parts = [recordings.part(name, *[records.pack(name)] * count)]
        for turn in range(1, 17):
            out.add(Turn(recordings.BEGAN + turn * apart_ns, parts), False, resolver)
            if file.stat().st_size > empty:
                return turn
        return 0

    assert written("signal"), "more events than may wait"
    assert written("process"), "more bytes than may wait"
    assert 0 < written("process", frugal=True) < written("process")
    tenth = 100_000_000
    assert written("exit", count=1, apart_ns=tenth) == 11, "a second"
    assert written("exit", frugal=True, count=1, apart_ns=tenth) == 6, "half a second"


def test_the_disk_that_a_window_takes(tmp_path: Path) -> None:
    """Of what all recordings may take, half; and no more than that."""
    assert number("the flight recorder's window") == flight.MAX_WINDOW
    for max_size, most in ((1 << 20, 1 << 19), (1 << 40, flight.MAX_WINDOW)):
        recorder = flight.FlightRecorder(
            *(tmp_path, Clock(0), lambda said: None),
            seconds=60,
            after=1,
            cool_down=1,
            max_size=max_size,
        )
        assert recorder._window._max_size == most


def test_context_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of uses of namespaces here."""
    what = "context for a file that begins in the middle"
    mib = [number(what, n) >> (20 * (n == 0)) for n in range(4)]
    bounds = [context.BOUNDS[name] >> 20 for name in ("cgroup", "process", "cgroup_end")]
    assert mib == [*bounds, context.MAX_STATE >> 20]
    monkeypatch.setattr(context, "MAX_STATE", 20_000)
    found = records.described("context").schemas | records.described("network").schemas
    kinds = dict(enumerate(found.values(), 1))
    (kind,) = (kind for kind, schema in kinds.items() if schema.name == "network")
    kept = context.Context(kinds, [probes.get("resets")])
    for network in range(1, 500):
        kept.add(Part(kind, 1, cell(kinds[kind].pack(network=network))))
    (turn,) = kept.turns(1, Names())
    (part,) = turn.parts
    assert 10 < part.count < 200


def test_a_recording_with_too_many_layouts() -> None:
    most = number("layouts in a recording")
    assert most == layout.MAX_SCHEMAS
    told = [{"kind": n, "name": "x", "size": 16, "fields": []} for n in range(most + 1)]
    assert len(layout.schemas_of(told[:-1])) == most
    with pytest.raises(BadRecording, match="numbers its kinds of records wrongly"):
        layout.schemas_of(told)


# Why


def test_told_memory_of_too_many_cgroups() -> None:
    """A recording may tell of any number."""
    most = number("cgroups of a pod whose memory is read after an OOM kill")
    assert most == oom_decoder.MAX_PARTS
    told = oom_decoder.Decoder(Stream(Resolver(lambda place: None)))
    for part in range(2 * most):
        told.share(SimpleNamespace(pid=7, part=part))
    assert len(told._shares[7]) == most + 1, "the pod's own, too"


def test_timelines_of_each_command() -> None:
    why, live_, recorded = (number("timelines of `why` and `live`", n) for n in range(3))
    sizes = timelines.MAX_LIVES, timelines.MAX_SHOWN, timelines.MAX_RECORDED
    assert sizes == (why, live_, recorded << 20)
    assert timelines.Timelines(Clock(0))._lives._most == why
    feed: Any = SimpleNamespace(clock=Clock(0))
    assert NodeFeed._timelines(feed)._lives._most == live_


def test_timelines_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each command that explains one."""
    kept: list[int] = []

    class Noting(timelines.Timelines):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            kept.append(more.get("most", 0))
            super().__init__(*arguments, **more)

    for module in (timelines, explained, player):
        monkeypatch.setattr(module, "Timelines", Noting)
    recording = recordings.DATA / "format-1.0.ktrace"
    for command in ("why", "export"):
        root_command.main([command, str(recording)], standalone_mode=False)
    shown = player.Player(recording, Selection(everything=True), None, lambda snapshot: None)
    shown._timelines()
    assert set(kept[:2] + kept[-1:]) == {number("timelines of `why` and `live`", 2) << 20}
    assert len(kept) >= 3


def test_facts_with_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes says of pods: in the recording, in a file beside it, and in the live view."""
    kept: list[int] = []

    class Noting(kubernetes.Facts):
        def __init__(self, most: int = 0) -> None:
            kept.append(most)
            super().__init__(most)

    class Reached(Exception):
        pass

    def reach(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(kubernetes, "Facts", Noting)
    monkeypatch.setattr(player, "Facts", Noting)
    recording = str(recordings.DATA / "format-1.0.ktrace")
    events = tmp_path / "events.json"
    events.write_text('{"kind": "List", "items": []}')
    for line in (["why", recording], ["why", recording, "--events", str(events)]):
        root_command.main(line, standalone_mode=False)
    shown = player.Player(Path(recording), Selection(everything=True), None, lambda snapshot: None)
    monkeypatch.setattr(player, "Session", reach)
    with pytest.raises(Reached):
        shown._play()
    assert kept == [number("what Kubernetes says of pods", 2)] * 3


def test_flights_have_a_size_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Noting(flight.FlightRecorder):
        def __init__(self, *arguments: Any, max_size: int, **more: Any) -> None:
            sizes.append(max_size)
            super().__init__(*arguments, max_size=max_size, **more)

    monkeypatch.setattr(record_command, "FlightRecorder", Noting)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    values = {"rotate": None, "flight": 60, "triggers": (), "after": 30, "cool_down": 300}
    for asked in (None, 5 << 20):
        record_command._flight([], {**values, "max_size": asked}, Clock(0), tmp_path, "node")
    assert sizes == [number("flight recordings"), 5 << 20]


def test_patterns_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session keeps them anyway; `replay`, and `why` for a recording, keep more."""
    kept: list[int] = []
    monkeypatch.setattr(event, "_kept", event._Kept())

    class Noting(patterns.Patterns):
        def __init__(self, resolver: Resolver, repeating: Any, most: int) -> None:
            kept.append(most)
            super().__init__(resolver, repeating, most)

    monkeypatch.setattr(session_module, "Patterns", Noting)
    recording = str(recordings.DATA / "format-1.0.ktrace")
    for command in ("replay", "why"):
        root_command.main([command, recording], standalone_mode=False)
    told = "patterns of like records"
    assert kept == [number(told, 1) << 20] * 2


def test_other_ends_of_many_sorts() -> None:
    """Further pods are told as one."""
    most = number("sorts of other ends of an entry's resets")
    assert most == entry.MAX_OTHERS
    world = World()
    world.reset("sent", "no_socket", "closed port")
    (own,) = world.only().story.of("tcp_reset")
    sort: Any = own.sort
    for pod in range(3 * most):
        place = place_of(None, uid=f"{pod:032x}")
        other: Any = SimpleNamespace(place=place, body={"meaning": "x"})
        own.meet(own.event, other, sort)
    assert len(own.others) == most + 1
    assert sum(end.count for end in own.others.values()) == 3 * most


def test_a_timeline_with_too_many_groups() -> None:
    """The oldest leaves, and what it held is counted."""
    alike, groups = number("entries of a timeline"), number("entries of a timeline", 1)
    assert (alike, groups) == (entry.MAX_ALIKE, life.MAX_GROUPS)
    event = World().signal("SIGUSR1", "host")
    one = life.Life(APP)
    for group in range(groups + 3):
        one.add(group, 0, event, 1)
    assert list(one.groups) == list(range(3, groups + 3))
    assert one.left_out == 3
    for number_ in range(alike + 5):
        one.add("many", number_, event, 1)
    assert len(one.groups["many"]) == alike
    assert one.left_out == 3 + 1 + 5


def test_suspected_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest counts as received."""
    assert number("resets that may have been the kernel's own call") == resets._MAX_SUSPECTS
    monkeypatch.setattr(resets, "_MAX_SUSPECTS", 2)
    resolver = records.Decoding(resets.PROBE)
    received = [
        reset(resolver, sent=0, state=FIN_WAIT1, flow_remote_port=port) for port in (1, 2, 3)
    ]
    for port in (1, 2, 3):
        reset(resolver, state=CLOSE, reason=b"TCP_ABORT_ON_DATA", flow_remote_port=port)
    assert [one.again is not None and one.again() for one in received] == [received[0], None, None]


def test_rhythms_of_many_commands() -> None:
    what = "commands executed in a container whose rhythm `why` knows"
    assert number(what) == life.MAX_COMMANDS
    world = World()
    for pid in range(3 * life.MAX_COMMANDS):
        who = test_executed.command(1000 + pid, argv=["probe", f"{pid}"])
        world.exit(7, who=who, ends_container=False)
    (one,) = world.timelines._lives.values()
    assert len(one.executed) == life.MAX_COMMANDS


def test_a_long_rhythm() -> None:
    what = "commands executed in a container whose rhythm `why` knows"
    assert number(what, 1) == entry.MAX_GAPS
    (story,) = test_executed.told([2000.0] * 50).timelines.stories()
    assert [len(one.gaps) for one in story.entries] == [entry.MAX_GAPS]


def test_containers_whose_names_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    what = "containers that `why` may be asked about, whose names are late"
    assert number(what) == _watch.MAX_UNDECIDED
    monkeypatch.setattr(_watch, "MAX_UNDECIDED", 3)
    watched = test_watch.Watched(monkeypatch)
    for n in range(9):
        place = place_of(f"{n:064x}", uid=f"{n:032x}")
        place.rename(Pod(f"{n:032x}"), place.container)
        watched.watch.undecided(watched.world.exit_of(process(100 + n, place=place), 3))
    assert len(watched.watch._undecided) == 3


def test_stops_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was told, and the pods that are gone, which have the same bound."""
    assert number("verdicts told and pods gone that `why` remembers") == _watch.MAX_TOLD
    monkeypatch.setattr(_watch, "MAX_TOLD", 3)
    watched = test_watch.Watched(monkeypatch, follows=True)
    for n in range(9):
        place = place_of(f"{n:064x}", uid=f"{n:032x}")
        target = process(100 + n, place=place, init=True)
        watched.world.signal("SIGTERM", "runtime", RUNC, target)
    assert len(watched.watch._stop_asked) == 3
    for n in range(9):
        place = place_of(f"{n + 9:064x}", uid=f"{n:032x}")
        watched.world.exit(3, who=process(100 + n, place=place, init=True))
    watched.pass_by(1)
    assert len(watched.told) == 9
    assert len(watched.watch._told) == 3
    watched.watch._leaving = [_watch.Told(f"{n:032x}", watched.now) for n in range(9)]
    gone = {f"{n:032x}" for n in range(9)}
    monkeypatch.setattr(watched.world.timelines, "ended_pods", lambda: gone)
    watched.watch._follow(watched.now)
    assert len(watched.watch._gone) == 3


def test_a_command_line_that_is_long() -> None:
    """Of its words, of each word, and of the program's path."""
    what = "what hints look at of a command line"
    most, longest = number(what), number(what, 1)
    argv = ["java", *(f"{n}-{'x' * (2 * longest)}" for n in range(2 * most))]
    exe = f"/usr/bin/{'y' * longest}java"
    world = World()
    world.exit(1, who=process(7, "java", exe=exe, init=True))
    seen = words._seen(replace(process(7, "java", exe=exe), argv=argv), world.only().verdict)
    assert seen.argv == [word[:longest] for word in argv[:most]]
    assert not seen.whole
    assert seen.exe == exe[-longest:].rpartition("/")[2]


def test_roots_that_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are wanted stay; the oldest of the others makes room, and is closed."""
    assert number("roots of containers that `why` and the agent hold open") == crash.MAX_ROOTS
    monkeypatch.setattr(crash, "MAX_ROOTS", 2)
    monkeypatch.setattr(crash, "_own_root", lambda pid: os.open(tmp_path, os.O_PATH))
    running: list[Any] = [
        SimpleNamespace(
            identity=SimpleNamespace(container_id=name), own_processes=lambda: [os.getpid()]
        )
        for name in "abcd"
    ]
    monkeypatch.setattr(crash, "_container_cgroups", lambda: running)
    before = len(os.listdir("/proc/self/fd"))
    finder = crash.FaultFinder()
    try:
        finder.hold_roots({"a", "b", "c"})
        assert list(finder._roots) == ["a", "b"]
        finder.hold_roots({"b", "c", "d"})
        assert list(finder._roots) == ["b", "c"]
        finder.hold_roots({"d"})
        assert list(finder._roots) == ["c", "d"]
    finally:
        finder.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_the_kernel_log_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was refused a process, and who crashed."""
    what = "refused processes that `why` knows of from the kernel log"
    assert number(what) == crash.MAX_FAULTS
    monkeypatch.setattr(crash, "MAX_FAULTS", 3)
    said = [
        f"cgroup: fork rejected by pids controller in /kubepods/pod{n:032x}/{n:064x}"
        for n in range(9)
    ] + [
        f"app[{100 + n}]: segfault at 0 ip 000000000040113a sp 00007ffd error 4 in app[401000+1000]"
        for n in range(9)
    ]
    finder = crash.FaultFinder()
    log: Any = SimpleNamespace(read=lambda: [Line(1, text) for text in said], close=lambda: None)
    finder._log = log
    assert finder.listen()
    assert len(finder._refused) == 3
    assert list(finder._found) == [106, 107, 108]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, os.O_PATH)
    yield opened
    os.close(opened)


FOLDERS = "folders of Python packages in which a crash's library is looked for"


def packages(root: int) -> list[str]:
    python = process(1, "python3", exe="/usr/bin/python3.11")
    return list(crash._packages(root, "_speed.so", python))


def test_a_folder_with_too_many_names(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert number(FOLDERS, 1) == crash.MAX_IN_FOLDER
    folder = tmp_path / "usr/lib/python3.11/site-packages"
    folder.mkdir(parents=True)
    for n in range(9):
        (folder / f"{n}.so").touch()
    assert len(crash._names(root, "/usr/lib/python3.11/site-packages")) == 9
    monkeypatch.setattr(crash, "MAX_IN_FOLDER", 5)
    assert len(crash._names(root, "/usr/lib/python3.11/site-packages")) == 5


def test_too_many_folders(root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container may make them without end."""
    assert number(FOLDERS) == crash.MAX_ENTRIES
    deep = tmp_path / "usr/lib/python3.11/site-packages" / "/".join("abcdefghi")
    deep.mkdir(parents=True)
    (deep / "_speed.so").touch()
    assert len(packages(root)) == 1
    monkeypatch.setattr(crash, "MAX_ENTRIES", 5)
    assert packages(root) == []


def test_too_many_ancestors(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of one that has more mapped than is read, the rest is not looked at."""
    what = "what is mapped by the ancestors of a worker that crashed"
    assert (number(what), number(what, 1)) == (crash.MAX_KIN, crash.MAX_MAPS)
    maps = Path("/proc/self/maps").read_text().splitlines()
    libc = next(line.split()[-1] for line in maps if "/libc" in line and ".so" in line)
    root = os.open("/", os.O_PATH)
    try:
        for strangers, found in ((crash.MAX_KIN - 1, [libc]), (crash.MAX_KIN, [])):
            parents = [*[(1 << 22, "gone")] * strangers, (os.getpid(), "master")]
            worker = process(1, "worker", parents=parents)
            assert list(crash._mapped(root, Path(libc).name, worker)) == found
        monkeypatch.setattr(crash, "MAX_MAPS", 10)
        worker = process(1, "worker", parents=[(os.getpid(), "master")])
        assert list(crash._mapped(root, Path(libc).name, worker)) == []
    finally:
        os.close(root)


def test_a_program_that_is_too_large(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = "a program's file that is searched for a function"
    assert (number(what), number(what, 1)) == (crash.MAX_FILE, crash.MAX_TABLE)
    (tmp_path / "app").write_bytes(b"x" * 100)
    monkeypatch.setattr(crash, "MAX_FILE", 100)
    assert len(crash._read(root, "/app")) == 100
    monkeypatch.setattr(crash, "MAX_FILE", 99)
    with pytest.raises(ValueError):
        crash._read(root, "/app")
    symbol = crash._SYMBOL.pack(1, crash._FUNCTION, 0, 1, 0x1000, 0x100)
    strings = SimpleNamespace(get_string=lambda at: "second")
    table = {"sh_size": len(symbol)}

    class Table(dict[str, int]):
        stringtable = strings

        def data(self) -> bytes:
            return symbol

    assert crash._symbol(Table(table), 0x1010) == "second"
    monkeypatch.setattr(crash, "MAX_TABLE", len(symbol) - 1)
    assert crash._symbol(Table(table), 0x1010) is None


# Decode


def test_a_line_without_an_end() -> None:
    """It is told in pieces, before its end has come."""
    most = number("a line that `decode` reads")
    assert most == decode_command.MAX_LINE
    ours, theirs = os.pipe()
    told, ended = threading.Event(), threading.Event()

    def write() -> None:
        with open(theirs, "wb", buffering=0) as pipe:
            pipe.write(b"x" * (2 * most + 10))
            told.wait(20)
            ended.set()
            pipe.write(b"\nend\n")

    thread = threading.Thread(target=write)
    thread.start()
    lines = (line for line in decode_command._lines(ours) if line is not None)
    try:
        first = next(lines)
        assert not ended.is_set()
        told.set()
        rest = list(lines)
    finally:
        told.set()
        thread.join()
        os.close(ours)
    assert rest[-1] == "end"
    assert max(map(len, (first, *rest))) <= most
    assert sum(map(len, (first, *rest))) == 2 * most + 10 + 3


REPORT = "what `decode` keeps of a report"


def test_a_report_of_many() -> None:
    """Of each sort some are kept, and the others counted."""
    victims, zones, tasks = (number(REPORT, n) for n in range(3))
    assert (victims, zones) == (oom_reports.MAX_VICTIMS, oom_reports.MAX_ZONES)
    assert tasks == oom_reports.TASKS_SHOWN
    made = oom_reports.OomReport()
    for pid in range(victims + 7):
        made.add_killed(cast(Any, SimpleNamespace(pid=pid)))
    assert (len(made.killed), made.more_killed) == (victims, 7)
    for pid in range(100):
        assert made.add_task(f"[  {pid}]     0  {pid}  100  {pid}  4096  0  0 sh")
    assert (len(made.tasks) <= 64, made.task_count) == (True, 100)
    assert [rss for rss, *_ in sorted(made.tasks, reverse=True)[:tasks]] == [99, 98, 97]
    for node in range(zones + 9):
        line = f"Node {node} DMA32: 74*4kB (UME) 42*8kB (UM) 0*16kB = 632kB"
        assert made.memory.take(line)
        marks = f"Node {node} DMA32 free:57596kB boost:0kB min:55608kB low:69508kB high:83408kB"
        assert made.memory.take(marks)
    assert (len(made.memory.zones), len(made.memory.marks)) == (zones, zones)


@pytest.mark.parametrize("killed", [False, True])
def test_a_report_that_does_not_end(killed: bool) -> None:
    """It is told as far as it came, when so many lines of others have come."""
    what = "a report that `decode` waits for"
    patience = number(what, killed)
    assert (kernel_reports.PATIENCE_BEFORE, kernel_reports.PATIENCE_AFTER)[killed] == patience
    decoder = Decoder(NOBODY)
    lines = report()
    for line in lines if killed else lines[:1]:
        assert decoder.feed(line) == []
    answered = [bool(decoder.feed(f"usb 1-{n}: new device")) for n in range(patience + 5)]
    assert answered.index(True) == patience


def test_free_lists_of_many_zones() -> None:
    most = number("zones of which `decode` has free lists")
    assert most == free_lists.MAX_ZONES
    decoder = Decoder(NOBODY)
    zones = (f"Node {n}, zone Normal {' '.join(['1'] * 11)}" for n in range(most + 3))
    answers = [len(decoder.feed(line)) for line in zones]
    assert answers.index(1) == most
    assert len(decoder.end()) == 1


def test_answers_told_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    most = number("answers that `decode` remembers, to tell each once")
    assert most == decode_command.MAX_SAID
    monkeypatch.setattr(decode_command, "MAX_SAID", 2)
    said = decode_command._Said()
    said.show([["a"], ["a"], ["b"], ["c"], ["a"]])
    assert capsys.readouterr().out.split() == ["a", "b", "c", "a"]
    assert said.again == 1


# The plugin


def test_answers_of_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    what = "an answer of kubectl"
    assert number(what) == client.MAX_ANSWER
    assert number(what, 2) == home.MAX_WATCHED
    for ask in (client.Kubectl.ask, client.Kubectl.run):
        assert signature(ask).parameters["seconds"].default == number(what, 1)
    monkeypatch.setattr(home, "MAX_WATCHED", 1 << 20)
    ours, theirs = os.pipe()
    told = b'{"a": 1} ' + b'"' + b"x" * (1 << 20)

    def write() -> None:
        with open(theirs, "wb") as pipe:
            pipe.write(told)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with open(ours, "rb") as stream:
            pieces = home._pieces(stream)
            assert next(piece for piece in pieces if piece) == b'{"a": 1}'
            with pytest.raises(KtraceError, match="more than 1 MiB"):
                list(pieces)
    finally:
        writer.join()


# SystemTap


def test_what_staprun_is_told_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, module = tmp_path / "told", tmp_path / "module.ko"
    staprun = tmp_path / "staprun"
    staprun.write_text(f'#!/bin/sh\necho "$@" > {told}\n')
    staprun.chmod(0o755)
    module.touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = stap_program.Program(module, {})
    wait_for("its end", lambda: program.ended)
    program.close(lambda line: None)
    words = told.read_text().split()
    kept = int(words[words.index("-b") + 1]) << 20  # staprun(8): for each CPU, in megabytes
    assert kept == number("what staprun keeps for us")


def test_a_program_that_says_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = "what SystemTap's programs say"
    talker = tmp_path / "staprun"
    talker.write_text(
        "#!/bin/sh\nfor n in $(seq 100 159); do printf '%s%0400d\\n' $n 0 >&2; done\n"
    )
    talker.chmod(0o755)
    module = tmp_path / "module.ko"
    module.touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = stap_program.Program(module, {})
    wait_for("the end of what it says", lambda: program.ended)
    program.close(lambda line: None)
    assert [line[:3] for line in program.words] == [str(n) for n in range(160 - number(what), 160)]
    assert {len(line) for line in program.words} == {number(what, 1)}
