# SPDX-License-Identifier: Apache-2.0
"""Limits of descriptors and memory, and what forbids: each is named with what lifts it, and none is
told to be the kernel's."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.cgroups import memory_cgroup
from tests.support.ktrace import END_SECONDS, ROOT

# Starting so often takes an emulated processor too long, and what is named is the same everywhere.
pytestmark = pytest.mark.any_kernel

TRACING = ("trace", "signals,exits", "--all", "--duration", "0.1s")
BLAMING = ("accepts none", "doctor", "traceback", "Traceback", "writing the output")


def ktrace(inside: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*inside, sys.executable, "-m", "tracer", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=END_SECONDS, check=False
    )


def python(code: str) -> str:
    """What it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("allowed", [8, 20, 40])
def test_too_few_descriptors(allowed: int) -> None:
    ended = ktrace(("prlimit", f"--nofile={allowed}"), *TRACING)
    assert ended.returncode == 1, ended.stderr
    problem, remedy = ended.stderr.splitlines()
    assert f"may have {allowed} descriptors and no more (RLIMIT_NOFILE)" in problem
    assert remedy.strip().startswith("ulimit -n 1024; ")
    assert not any(word in ended.stderr for word in BLAMING)


def test_a_soft_limit_is_raised() -> None:
    ended = ktrace(("prlimit", "--nofile=20:1024"), *TRACING)
    assert ended.returncode == 0, ended.stderr


def test_wherever_the_last_descriptor_is_taken() -> None:
    """With each number of descriptors up to the first that is enough: loading, sharing maps,
    attaching, walking, opening objects."""
    said = python("""
import os, resource
from tracer import probes
from tracer.backends.core import CoreBackend
from tracer.model.errors import LimitReached
from tracer.probes import Probe

wanted = [probes.get("resets")]
CoreBackend().attach(wanted, {})  # what is imported on the way is
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for allowed in range(len(os.listdir("/proc/self/fd")) + 8, 500):
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        backend = CoreBackend()
        backend.attach(wanted, {})
    except LimitReached as limit:
        print(limit.message)
    except OSError as error:  # the command line says these the same way
        print(error.errno, error)
    else:
        print("enough")
        break
""")
    *reached, last = said.splitlines()
    assert last == "enough"
    assert len(reached) > 10
    assert all("RLIMIT_NOFILE" in line or line.startswith("24 ") for line in reached), reached
    kinds = {line.split(":")[0] for line in reached}
    assert {"loading"} < kinds


def test_too_few_addresses() -> None:
    """The most that is not enough: below that Python itself does not start."""
    for size in range(240, 20, -10):
        ended = ktrace(("prlimit", f"--as={size << 20}"), *TRACING)
        if ended.returncode:
            break
    assert ended.returncode == 1, ended.stderr
    assert "RLIMIT_AS" in ended.stderr
    assert f"{size << 10} KiB of addresses" in ended.stderr
    assert not any(word in ended.stderr for word in BLAMING)


def test_too_little_memory_in_the_cgroup() -> None:
    """Between where the kernel kills and where all is well BPF maps find no room. How much that is
    depends on what Python takes by itself."""
    with memory_cgroup(16 << 20) as cgroup:
        names = ("memory.limit_in_bytes", "memory.max")
        file = next(cgroup / name for name in names if (cgroup / name).exists())
        join = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
        for size in range(20, 120, 2):
            file.write_text(str(size << 20))
            ended = ktrace(("sh", "-c", join, "sh"), *TRACING)
            if ended.returncode >= 0:
                break
    assert ended.returncode == 1, ended.stderr
    assert f"no memory: the cgroup of this process may have {size << 10} KiB" in ended.stderr
    assert "resources.limits.memory" in ended.stderr
    assert not any(word in ended.stderr for word in BLAMING)


def test_root_of_a_user_namespace() -> None:
    ended = ktrace(("unshare", "--user", "--map-root-user"), *TRACING)
    assert ended.returncode == 3, ended.stderr
    assert "the user namespace of this process, whose root is not the node's" in ended.stderr
    assert "run it as root of the node" in ended.stderr
    assert not any(word in ended.stderr for word in BLAMING)


FILTERED = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 321), (6, 0, 0, 0x00050001), (6, 0, 0, 0x7FFF0000)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(filter))
assert libc.prctl(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
def test_a_seccomp_filter() -> None:
    """That answers EPERM to bpf(2), as those of container runtimes do."""
    ended = ktrace((sys.executable, "-c", FILTERED), *TRACING)
    assert ended.returncode == 3, ended.stderr
    assert "the seccomp filter of this process" in ended.stderr
    assert "seccompProfile: {type: Unconfined}" in ended.stderr
    assert not any(word in ended.stderr for word in BLAMING)
