# SPDX-License-Identifier: Apache-2.0
"""All programs of a session are one object, because libbpf reads the kernel's types once for each.
Where the kernel refuses one of them, each probe has its own."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.ktrace import BACKEND, ROOT
from tracer import probes
from tracer.backends import core
from tracer.backends.core import CoreBackend
from tracer.backends.libbpf import Libbpf, LibbpfError, LoadedObject
from tracer.kernel.bpf_object import together
from tracer.model.errors import CannotOnThisKernel

pytestmark = pytest.mark.skipif(BACKEND not in ("auto", "core"), reason="of the backend core")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that were opened: each makes libbpf read the kernel's types."""
    names: list[str] = []
    real = Libbpf.open

    def counted(self: Libbpf, data: bytes, name: str) -> LoadedObject:
        names.append(name)
        return real(self, data, name)

    monkeypatch.setattr(Libbpf, "open", counted)
    return names


@pytest.fixture
def accepted() -> list[str]:
    """The probes that this kernel has at all."""
    return [name for name in probes.names() if _is_accepted(name)]


def _is_accepted(name: str) -> bool:
    backend = CoreBackend()
    try:
        backend.attach([probes.get(name)], {})
    except CannotOnThisKernel:
        return False
    backend.close()
    return True


def test_one_probe_is_one_object(opened: list[str]) -> None:
    backend = CoreBackend()
    backend.attach([probes.get("signals")], {})
    backend.close()
    assert len(opened) == 1
    file = together("signals")
    assert file
    assert set(file.programs) == {
        "on_signal_generate",
        "on_cgroup_mkdir",
        "on_cgroup_rmdir",
        "on_sched_process_exec",
    }


@pytest.mark.any_kernel  # other kernels refuse some by themselves
def test_a_refused_program_leaves_the_others(
    accepted: list[str], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel accepts one by one is the same as what it accepts at once."""
    wanted = [probes.get(name) for name in accepted]
    assert {"signals", "exits"} <= set(accepted)
    opened.clear()
    at_once = CoreBackend()
    at_once.attach(wanted, {})
    points = {name: point.name for name, point in at_once.attached.items()}
    kinds = {schema.name: kind for kind, schema in at_once.schemas.items()}
    walked = at_once.walked
    at_once.close()
    assert len(opened) == 1

    monkeypatch.setattr(LoadedObject, "load", _refusing_the_first(LoadedObject.load))
    each = CoreBackend()
    opened.clear()
    each.attach(wanted, {})
    assert len(opened) > len(wanted)
    assert {name: point.name for name, point in each.attached.items()} == points
    assert {schema.name: kind for kind, schema in each.schemas.items()} == kinds
    assert each.walked == walked
    each.close()


def _refusing_the_first(load: object) -> object:
    refusals: Iterator[bool] = iter([True])

    def refusing(self: LoadedObject, programs: set[str] | None = None) -> None:
        if next(refusals, False):
            raise LibbpfError("loading", errno.EINVAL, [])
        load(self, programs)  # type: ignore[operator]

    return refusing


def test_a_program_that_the_file_lacks_is_no_error(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with a probe that was added to an installed ktrace."""
    monkeypatch.setattr(core, "together", lambda name: None)
    backend = CoreBackend()
    backend.attach([probes.get("signals")], {})
    backend.close()
    assert opened == ["context", "signals"]


# What no `ktrace signals -o json` uses: other commands, rooms above the session, other probes than
# signals and the one that knows a container's first process, and libraries of those.
UNUSED = (
    *("tracer.agent", "tracer.live", "tracer.why", "tracer.backends.bcc", "tracer.backends.stap"),
    *("tracer.kubernetes", "tracer.kubectl", "tracer.recording.recorder", "tracer.outputs.table"),
    *("asyncio", "concurrent", "elftools", "google", "jinja2", "logging", "psutil", "rich", "ssl"),
    *("subprocess", "textual", "yaml", "zstandard"),
)


LOADED = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
sys.argv[:] = ["ktrace", *"signals --all --duration 1ms -o json".split()]
from tracer.__main__ import main
main()
"""


def test_nothing_is_imported_that_the_command_does_not_use() -> None:
    command = [sys.executable, "-c", LOADED]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    imported = set(ended.stderr.splitlines()[-1].split())
    assert {"tracer.session.live", "tracer.probes.signals"} <= imported
    unused = {name for name in imported if name.startswith(tuple(f"{n}." for n in UNUSED))}
    assert unused | (imported & set(UNUSED)) == set()
    of_probes = {name for name in probes.names() if f"tracer.probes.{name}" in imported}
    assert of_probes == {"signals", "exits"}
    of_commands = {name for name in imported if name.startswith("tracer.cli.")}
    assert all(name.startswith("tracer.cli._") for name in of_commands), of_commands
