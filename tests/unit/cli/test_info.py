# SPDX-License-Identifier: Apache-2.0
"""`ktrace info`: what a recording is of, also of one that is cut or that somebody made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.ktrace import run
from tests.unit.recording.test_recording import (
    DATA,
    UID,
    hostile_file,
    incident,
    meta,
    record,
    split_blocks,
)
from tracer.cli import info as info_command
from tracer.recording.format import Kind, block, json_block

FIRST = DATA / "format-1.0.ktrace"


def info(file: Path) -> dict[str, Any]:
    ended = run("info", str(file), "-o", "json")
    assert ended.returncode == 0, ended.stderr
    told = orjson.loads(ended.stdout)
    assert isinstance(told, dict)
    return told


def test_what_a_recording_is_of() -> None:
    told = info(FIRST)
    signals = {"backlog_drop": 1, "exit": 1, "oom": 1, "signal": 23}
    assert told == {
        "node": "node-7",
        "kernel": "6.1.0",
        "machine": "x86_64",
        "boot_id": "b0",
        "ktrace": "1",
        "first": "2023-11-14T22:13:25.000000000Z",
        "last": "2023-11-14T22:13:27.000000001Z",
        "seconds": 2.000000001,
        "probes": {
            "backlog": "fentry/tcp_conn_request, tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock,"
            " tcp_add_backlog",
            "exits": "tp_btf/sched_process_exit",
            "oom": "fentry/oom_kill_process",
            "pagealloc": "kprobe/warn_alloc",
            "resets": "tp_btf/tcp_send_reset with reason",
            "signals": "tp_btf/signal_generate",
        },
        "events": {
            **{"backlog_drop": 1, "exit": 2, "oom": 1, "page_alloc_failure": 1},
            **{"signal": 23, "tcp_reset": 1},
        },
        "pods": [{"namespace": "shop", "name": "web-0", "uid": UID, "events": signals}],
        "lost": {"signal": 19137, "process": 2},
        "unrecorded": 0,
        "complete": True,
        "bytes": FIRST.stat().st_size,
        "usable_bytes": FIRST.stat().st_size,
    }


def test_for_people() -> None:
    ended = run("info", str(FIRST))
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert "node        node-7, Linux 6.1.0 x86_64" in lines
    assert "lost        19137 signal, 2 process" in lines
    assert lines[-1].split() == ["shop", "web-0", "1", "1", "1", "0", "23", "0"]


def test_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken between words; a pod's counts are folded, and none is missing."""
    wide = run("info", str(FIRST)).stdout
    monkeypatch.setattr(info_command, "terminal_width", lambda: 20)
    info_command.run(str(FIRST), "table")
    narrow = capsys.readouterr().out
    assert narrow.split() == wide.split()
    longest = max(map(len, wide.split()))
    assert all(len(line) <= max(20, longest + 5) for line in narrow.splitlines())
    assert len(narrow.splitlines()) > len(wide.splitlines())


def test_a_cut_recording(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    blocks = split_blocks(data)
    (tmp_path / "x").write_bytes(data[: -len(blocks[-1]) - 1])
    told = info(tmp_path / "x")
    assert told["complete"] is False
    assert told["usable_bytes"] == len(data) - len(blocks[-1]) - len(blocks[-2])
    assert told["bytes"] == len(data) - len(blocks[-1]) - 1
    whole = "no, it was not ended in order"
    assert whole in run("info", str(tmp_path / "x")).stdout


def test_a_damaged_recording_is_told_and_is_an_error(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[-1] ^= 1
    (tmp_path / "x").write_bytes(data)
    ended = run("info", str(tmp_path / "x"))
    assert ended.returncode == 6
    assert "node        node-7" in ended.stdout
    assert "its CRC does not match" in ended.stderr


@pytest.mark.parametrize(
    "made",
    [
        block(Kind.EVENTS, b"", summary=b"["),
        block(Kind.EVENTS, b"", summary=b"[]"),
        block(Kind.EVENTS, b"", summary=b'{"signal": 3}'),
        block(Kind.EVENTS, b"", summary=b'{"signal": {"x": "y"}}'),
        json_block(Kind.LOST, []),
        json_block(Kind.IDENTITY, [1]),
        json_block(Kind.END, []),
        json_block(Kind.END, {"unrecorded": "x"}),
    ],
)
def test_made_up(tmp_path: Path, made: bytes) -> None:
    hostile_file(tmp_path / "x", meta(), made)
    ended = run("info", str(tmp_path / "x"))
    assert ended.returncode == 6
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_escapes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    pod = {"uid": "\x1b[31mu", "namespace": "a\nb", "name": "\x07", "labels": None}
    names = {"pods": [pod], "containers": [], "answered": []}
    summary = orjson.dumps({"\x1b[2J": {"\x1b[31mu": 1}})
    blocks = [meta(node="\x1b]0;x\x07", kernel="\x1b"), json_block(Kind.IDENTITY, names)]
    hostile_file(tmp_path / "x", *blocks, block(Kind.EVENTS, b"", summary=summary))
    ended = run("info", str(tmp_path / "x"))
    assert ended.returncode == 0
    assert ended.stdout.replace("\n", "").isprintable()
