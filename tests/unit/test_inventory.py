# SPDX-License-Identifier: Apache-2.0
"""The checks that what somebody asked for is on this node."""

from __future__ import annotations

import os
import threading

import pytest

from tracer.errors import NoSuchProcess, UsageError
from tracer.identity.cri import CriSource
from tracer.identity.inventory import check_labels, check_pids
from tracer.identity.logs import LogDirectorySource


def test_processes_that_run() -> None:
    check_pids({os.getpid(), os.getppid(), 1})


def test_a_process_that_is_gone() -> None:
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    with pytest.raises(NoSuchProcess, match=f"no process {gone} is running") as refused:
        check_pids({os.getpid(), gone})
    assert refused.value.exit_code == 5
    assert "--wait" in str(refused.value.remedy)


def test_a_thread_is_told_from_its_process() -> None:
    told, done = threading.Event(), threading.Event()
    threads: list[int] = []

    def run() -> None:
        threads.append(threading.get_native_id())
        told.set()
        done.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert told.wait(30)
        with pytest.raises(NoSuchProcess, match=f"a thread of process {os.getpid()}") as refused:
            check_pids(threads)
        assert refused.value.remedy == f"select that: --pid {os.getpid()}"
    finally:
        done.set()
        thread.join()


def test_labels_need_a_source_that_knows_them() -> None:
    with pytest.raises(UsageError, match="labels") as refused:
        check_labels([LogDirectorySource()])
    assert "--cri-socket" in str(refused.value.remedy)
    check_labels([CriSource("/run/none.sock"), LogDirectorySource()])
