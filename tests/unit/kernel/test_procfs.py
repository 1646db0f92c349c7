# SPDX-License-Identifier: Apache-2.0
"""/proc/PID/stat, with names that look like more of it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tracer.kernel.procfs import stat_of


def test_a_process_of_this_machine() -> None:
    """As psutil tells it, in seconds of the wall clock."""
    found = stat_of(os.getpid())
    assert found is not None and found.parent == os.getppid()
    assert found.comm == Path("/proc/self/comm").read_bytes().removesuffix(b"\n")
    since_boot = psutil.Process().create_time() - psutil.boot_time()
    assert found.start_ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot, abs=1.5)


@pytest.mark.parametrize("comm", [b"sh", b"a b", b"a) S 1", b"(", b")", b"\xff\n"])
def test_a_name_is_not_taken_for_what_follows(comm: bytes, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    rest = b" S 23 " + b" ".join(b"%d" % n for n in range(5, 53))
    (tmp_path / "7" / "stat").write_bytes(b"7 (" + comm + b")" + rest)
    found = stat_of(7, tmp_path)
    assert found is not None
    assert (found.comm, found.parent, found.start_ticks) == (comm, 23, 22)


@pytest.mark.parametrize("content", [b"", b"7 (sh)", b"7 (sh) S x " + b"0 " * 40])
def test_what_is_no_such_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(content)
    assert stat_of(7, tmp_path) is None
    assert stat_of(8, tmp_path) is None
