# SPDX-License-Identifier: Apache-2.0
"""The SystemTap backend with programs `stap` and `staprun` that do what the test says."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.wait import wait_for
from tests.unit.records import described
from tracer import probes
from tracer.backends import privileges, stap, toolchain
from tracer.backends.stap import StapBackend
from tracer.backends.stap import modules as stap_modules
from tracer.backends.stap import program as stap_program
from tracer.backends.stap.modules import Script
from tracer.cli import root
from tracer.model.errors import KtraceError, UsageError

SIGNALS = probes.get("signals")
RELEASE = platform.release()
BEGIN = """
echo 'kt layout 3 signal target_pid signal'
echo 'kt attached signal:signal_generate'
echo 'kt ready'
"""
WAIT = "trap 'exit 0' TERM; while :; do sleep 0.05; done\n"

UNLOAD = 'if [ "$1" = -d ]; then echo $2 >>"${0%/*}/unloaded"; exit; fi'

Program = Callable[[str, str], None]
Loaded = Callable[..., None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script in the place of a program; the module of `signals` is built."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(stap_modules.INSTALLED_VARIABLE, str(tmp_path / "modules"))
    monkeypatch.setattr(stap_modules, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(stap, "cache", lambda: tmp_path / "cache")
    module = Script("signals").module(tmp_path / "modules", RELEASE)
    module.parent.mkdir(parents=True)
    module.write_bytes(b"a module, which nobody loads")

    def put(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)

    return put


@pytest.fixture
def backend() -> StapBackend:
    return StapBackend()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loaded:
    """Says which modules are loaded, and which of them somebody uses."""
    modules = tmp_path / "proc-modules"
    modules.write_text("")
    monkeypatch.setattr(stap_program, "MODULES", modules)

    def put(*names: str, used: Sequence[str] = ()) -> None:
        lines = [f"{name} 380928 0 - Live 0x0\n" for name in names]
        lines += [f"{name} 380928 1 - Live 0x0\n" for name in used]
        modules.write_text("".join(lines))

    return put


@contextmanager
def waiting(*argv: str) -> Iterator[int]:
    """A process with these arguments, which does nothing."""
    process = subprocess.Popen(["sh", "-c", "read nothing", *argv], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.communicate()


def read_all(backend: StapBackend) -> list[tuple[int, int]]:
    """Target and signal of every record, until the backend's end or its error."""
    schema = described("signals").schemas["signal"]
    found = []
    while batch := backend.read(1.0):
        found += [(r.target_pid, r.signal) for r in schema.cells(batch.data)]
    return found


def read_until(backend: StapBackend, words: str) -> list[tuple[int, int]]:
    """The same, with an error at the end."""
    found = []
    schema = described("signals").schemas["signal"]
    with pytest.raises(KtraceError, match=words):
        while batch := backend.read(1.0):
            found += [(r.target_pid, r.signal) for r in schema.cells(batch.data)]
    return found


def test_records_and_the_end(program: Program, backend: StapBackend) -> None:
    """Among stray output, and with what is written only when it ends."""
    program(
        "staprun",
        f"""
        {BEGIN}
        echo 'WARNING: this is not for you'
        echo 'kt 3 1 0 55 23 9 1'
        echo 'kt 3 2 0 56 '
        trap 'echo "kt 3 3 0 57 24 15 3"; echo "kt total 3 4"; printf "kt 3 4 0 58 2"; exit' TERM
        echo "WARNING: Number of errors: 0, skipped probes: 5" >&2
        while :; do sleep 0.05; done
        """,
    )
    backend.attach([SIGNALS], {})
    assert backend.attached["signals"].name == "signal:signal_generate"
    assert read_all(backend) == [(23, 9)]
    backend.detach()
    assert read_all(backend) == [(24, 15)]
    # two lines that were not whole, and what the handlers skipped
    assert backend.lost() == {"signal": 2 + 5}
    backend.close()


def test_settings_are_numbers_that_the_script_has(
    program: Program, backend: StapBackend, tmp_path: Path
) -> None:
    program("staprun", f'echo "$@" >{tmp_path}/arguments\n{BEGIN}{WAIT}')
    backend.attach([SIGNALS], {"kt_mode": 2, "kt_signal_mask": 5, "kt_reset_reasons": 1 << 99})
    backend.close()
    module = Script("signals").module(tmp_path / "modules", RELEASE)
    _, _, _, path, *settings = (tmp_path / "arguments").read_text().split()
    assert path == str(module)
    assert sorted(settings) == ["kt_mode=2", "kt_signal_mask=5"]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("Couldn't insert module 'x.ko': Invalid module format", "another kernel"),
        ("Couldn't insert module 'x.ko': Key was rejected by service", "signed"),
        ("Couldn't insert module 'x.ko': Required key not available", "sign"),
        ("Couldn't insert module 'x.ko': Operation not permitted", "locked down"),
        ("something that nobody has seen before", None),
    ],
)
def test_a_module_that_does_not_load(
    program: Program, backend: StapBackend, words: str, remedy: str | None
) -> None:
    program("staprun", f'echo "ERROR: {words}" >&2\nexit 1')
    with pytest.raises(KtraceError) as caught:
        backend.attach([SIGNALS], {})
    assert caught.value.message == f"SystemTap cannot trace signals: ERROR: {words}"
    if remedy:
        assert remedy in str(caught.value.remedy)
    else:
        assert caught.value.remedy is None


def test_one_that_dies_in_the_middle(program: Program, backend: StapBackend) -> None:
    """What it had said until then is not lost, and half a line is no record."""
    half = "echo 'kt 3 1 0 55 23 9 1'; printf 'kt 3 2 0 56 24 9 2'"
    program("staprun", f"{BEGIN}{half}; echo 'ERROR: a fault' >&2")
    backend.attach([SIGNALS], {})
    assert read_until(backend, "ended while tracing signals: ERROR: a fault") == [(23, 9)]
    backend.close()


def test_one_that_dies_at_the_end(program: Program, backend: StapBackend) -> None:
    """Before it told how many records there were."""
    last = "trap 'echo \"kt 3 1 0 55 23 9 1\"; echo broken >&2; exit' TERM"
    program("staprun", f"{last}{BEGIN}while :; do sleep 0.05; done")
    backend.attach([SIGNALS], {})
    backend.detach()
    words = "ended before it had told all events of signals: broken"
    assert read_until(backend, words) == [(23, 9)]
    backend.close()


def test_one_that_never_begins(
    program: Program, backend: StapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stap, "START_SECONDS", 3.0)
    program("staprun", f"echo 'waiting for Godot' >&2\n{WAIT}")
    with pytest.raises(KtraceError, match=r"did not start .*: waiting for Godot"):
        backend.attach([SIGNALS], {})


def test_one_that_does_not_end(
    program: Program, backend: StapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed."""
    monkeypatch.setattr(stap, "END_SECONDS", 0.2)
    program("staprun", f"trap '' TERM{BEGIN}echo stubborn >&2\nwhile :; do sleep 0.05; done")
    backend.attach([SIGNALS], {})
    backend.detach()
    words = "was killed as it did not end within 0.2 s, and events of signals may be missing"
    assert read_until(backend, f"{words}: stubborn") == []
    backend.close()


@pytest.mark.parametrize("signed", [False, True])
def test_a_module_that_stays_is_unloaded_or_told(
    program: Program,
    backend: StapBackend,
    loaded: Loaded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    signed: bool,
) -> None:
    """Its name is known without its help. One that is signed keeps the name of its file."""
    if signed:
        module = Script("signals").module(tmp_path / "modules", RELEASE)
        module.write_bytes(b"a module" + b"~Module signature appended~\n")
    program("staprun", f"{UNLOAD}\necho $$ >{tmp_path}/pid\n{BEGIN}{WAIT}")
    backend.attach([SIGNALS], {})
    pid = (tmp_path / "pid").read_text().strip()
    name = "ktrace_signals_0000000"
    if not signed:
        name = f"{name.removesuffix('0' * (len(pid) + 1))}_{pid}"
    loaded(name)
    backend.close()
    assert (tmp_path / "unloaded").read_text() == f"{name}\n"
    assert f"{name} is still loaded: rmmod {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pid", "name"),
    [
        (7, "ktrace_oom_00000_7"),
        (65536, "ktrace_oom_0_65536"),
        (4194304, "ktrace_oom_4194304"),
    ],
)
def test_staprun_keeps_the_length_of_a_name(pid: int, name: str) -> None:
    module = Script("oom").module(Path(), RELEASE)
    assert stap_program.name_in_kernel(module, pid) == name
    assert stap_program.name_in_kernel(module, None) == "ktrace_oom_0000000"


def test_what_nobody_reads_from_is_unloaded(
    program: Program,
    backend: StapBackend,
    loaded: Loaded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is loaded; and not what another one is just loading, or uses."""
    program("staprun", f"{UNLOAD}\n{BEGIN}{WAIT}")
    module = Script("signals").module(tmp_path / "modules", RELEASE)
    with (
        waiting("staprun", "-R", str(module)) as staprun,
        waiting("stapio", "ktrace_oom_0000_99") as stapio,
        waiting("sleep") as other,
    ):
        being_loaded = [stap_program.name_in_kernel(module, staprun), "ktrace_oom_0000_99"]
        left = [stap_program.name_in_kernel(module, pid) for pid in (stapio, other)]
        loaded(*left, *being_loaded, "ktrace_of_others", used=["ktrace_exits_0000_98"])
        backend.attach([SIGNALS], {})
        backend.close()
    assert (tmp_path / "unloaded").read_text().splitlines() == left
    said = capsys.readouterr().err.splitlines()
    assert said == [f"ktrace: the kernel module {m} is still loaded: rmmod {m}" for m in left]


def test_modules_are_loaded_one_after_the_other(
    program: Program, backend: StapBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """None is started while another is not ready yet: they would fail over mounting debugfs. This
    staprun is not ready before it was asked, and looks for its like then."""
    monkeypatch.setattr(stap_program, "PROC", tmp_path / "proc")
    exits = Script("exits").module(tmp_path / "modules", RELEASE)
    exits.parent.mkdir(parents=True)
    exits.write_bytes(b"another module")
    program(
        "staprun",
        f"""
        stem=$(basename $4 .ko) end=_$$
        name=$(printf %.$((${{#stem}} - ${{#end}}))s $stem)$end
        mkdir -p {tmp_path}/proc/$name
        until grep -q ready {tmp_path}/proc/$name/orders 2>{os.devnull}; do sleep 0.01; done
        for pid in $(ps -ww -o pid=,args= --ppid $PPID | awk '/ktrace_.*ko/ {{ print $1 }}'); do
            [ $pid = $$ ] || [ -e {tmp_path}/ready-$pid ] || echo $pid >>{tmp_path}/not-ready
        done
        touch {tmp_path}/ready-$$
        echo kt ready
        {WAIT}
        """,
    )
    backend.attach([SIGNALS, probes.get("exits")], {})
    backend.close()
    assert len(list(tmp_path.glob("ready-*"))) == 2
    assert not (tmp_path / "not-ready").exists()


# Building


def test_a_module_is_built_once(program: Program, tmp_path: Path) -> None:
    script = Script("exits")
    program("stap", f'echo "$@" >>{tmp_path}/calls; touch "${{5}}.ko"')
    assert stap_modules.find(script, "5.0") is None
    module = stap_modules.build(script, "5.0", tmp_path / "cache")
    assert stap_modules.find(script, "5.0") == module
    assert stap_modules.find(script, "5.1") is None
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("-r 5.0 -p4 -m ktrace_exits_0000000 ")
    assert list(module.parent.iterdir()) == [module], "nothing else is left"


def test_another_script_is_another_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = Script("exits").digest
    shutil.copytree(stap_modules.scripts(), tmp_path / "stap")
    monkeypatch.setattr(stap_modules, "scripts", lambda: tmp_path / "stap")
    assert Script("exits").digest == before
    (tmp_path / "stap" / "tapset" / "ktrace.stp").write_text("// shorter")
    assert Script("exits").digest != before


def test_a_compiler_that_complains(program: Program, tmp_path: Path) -> None:
    complaint = "/usr/src/x.c:3:1: error: no member named 'id'"
    program("stap", f'for i in $(seq 30); do echo "In file $i"; done\necho "{complaint}"\nexit 1')
    with pytest.raises(KtraceError) as caught:
        stap_modules.build(Script("exits"), "5.0", tmp_path)
    assert caught.value.message.endswith(f"for 5.0: {complaint}")
    assert "headers of exactly 5.0" in str(caught.value.remedy)
    assert not list((tmp_path / "5.0").rglob("*.ko"))


def test_a_compiler_that_hangs(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone afterwards, with what it started."""
    monkeypatch.setattr(stap_modules, "BUILD_SECONDS", 3.0)
    program("stap", f"sleep 600 & echo $! >{tmp_path}/child; wait")
    began = time.monotonic()
    with pytest.raises(KtraceError, match=r"still not done .* after 3\.0 s"):
        stap_modules.build(Script("exits"), "5.0", tmp_path)
    assert time.monotonic() - began < 30
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    wait_for("its child to be gone", lambda: not child.exists())


def test_a_compiler_ends_with_a_ktrace_that_is_killed(program: Program, tmp_path: Path) -> None:
    program(
        "stap", f"sleep 600 & echo $! >{tmp_path}/part; mv {tmp_path}/part {tmp_path}/child; wait"
    )
    words = ("stap", "build", "exits", "--kernel", "5.0", "-o", str(tmp_path / "out"))
    with subprocess.Popen([sys.executable, "-m", "tracer", *words]) as ktrace:
        try:
            wait_for("the compiler", (tmp_path / "child").exists)
        finally:
            ktrace.kill()
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    wait_for("its end", lambda: not child.exists())


def test_modules_are_built_by_a_command(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their paths are the output; one that fails does not keep the others from being built."""
    program("stap", 'case "$*" in *ktrace_oom*) echo no; exit 1;; esac; touch "${5}.ko"')
    with pytest.raises(KtraceError, match="1 of the modules could not be built") as caught:
        build_command(("build", "exits", "oom", "--kernel", "5.0", "-o", str(tmp_path / "out")))
    assert caught.value.exit_code == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(Script("exits").module(tmp_path / "out", "5.0"))]
    assert "SystemTap cannot build the module of oom for 5.0: no" in said.err


def test_a_missing_compiler_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KtraceError) as caught:
        build_command(("build", "exits", "--kernel", "5.0", "-o", str(tmp_path / "out")))
    assert "install the package systemtap" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backlog",), "no SystemTap script for backlog"),
        (("exits", "--kernel", "../5.0"), "is no kernel release"),
        (("exits", "--kernel", ".."), "is no kernel release"),
    ],
)
def test_a_wrong_use_of_the_command(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_command(("build", *arguments))


def build_command(arguments: Sequence[str]) -> None:
    root.main(["stap", *arguments], standalone_mode=False)


def test_without_stap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KtraceError, match="needs the program stap"):
        stap_modules.build(Script("exits"), "5.0", tmp_path)


# What is lacking


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, program: Program, tmp_path: Path) -> Path:
    """A node that lacks nothing; returns a directory in the place of /."""
    for name in ("stap", "staprun", "gcc", "make"):
        program(name, "")
    (tmp_path / "modules-file").write_text("")
    monkeypatch.setattr(stap, "MODULES", tmp_path / "modules-file")
    monkeypatch.setattr(privileges, "has", lambda capability: True)
    monkeypatch.setattr(toolchain, "lacking_headers", list)
    monkeypatch.setattr(toolchain, "lockdown", lambda: None)
    monkeypatch.setattr(toolchain, "modules_must_be_signed", lambda: False)
    return tmp_path


def lacks(probe: str | None) -> list[str]:
    found = stap.lacking(probes.get(probe) if probe else None)
    assert all(lack.remedy for lack in found)
    return [lack.what for lack in found]


@pytest.mark.usefixtures("able")
def test_nothing_is_lacking() -> None:
    assert lacks(None) == lacks("signals") == lacks("exits") == []


@pytest.mark.usefixtures("able")
def test_a_probe_without_a_script() -> None:
    assert lacks("backlog") == ["a SystemTap script for backlog"]


def test_without_staprun(able: Path) -> None:
    (able / "staprun").unlink()
    assert shutil.which("staprun") is None
    assert lacks(None) == ["the program staprun"]


def test_a_kernel_without_modules(able: Path) -> None:
    (able / "modules-file").unlink()
    assert lacks(None) == ["loadable modules, which this kernel was built without"]


def test_without_the_capability(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "has", lambda capability: capability != 16)
    assert lacks(None) == ["CAP_SYS_MODULE"]


def test_a_compiler_is_only_needed_without_a_module(
    able: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stap", "gcc"):
        (able / name).unlink()
    kept = subprocess.check_output(["which", "sh"], text=True).strip()
    (able / "sh").symlink_to(kept)
    monkeypatch.setenv("PATH", str(able))
    assert lacks("signals") == []
    assert lacks("exits") == ["the program stap", "gcc"]
    remedies = [lack.remedy for lack in stap.lacking(probes.get("exits"))]
    assert all(f"ktrace stap build --kernel {RELEASE}" in remedy for remedy in remedies)


def test_a_kernel_that_wants_signed_modules(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "modules_must_be_signed", lambda: True)
    wanted = ["a signed module: this kernel loads no other"]
    assert lacks("signals") == lacks("exits") == wanted
    module = Script("signals").module(able / "modules", RELEASE)
    module.write_bytes(b"a module" + b"~Module signature appended~\n")
    assert lacks("signals") == []


def test_enumerators_are_macros_with_the_numbers_of_the_objects(
    program: Program, tmp_path: Path
) -> None:
    """When a module is built, stap finds each macro that the scripts use, and finds it once."""
    look = 'while [ $# -gt 0 ]; do [ "$1" = -I ] && cat "$2"/*.stpm; shift; done'
    program("stap", f"({look}) >{tmp_path}/seen; exit 1")
    with pytest.raises(KtraceError, match="cannot build the module"):
        stap_modules.build(Script("signals"), "5.0", tmp_path / "out")
    seen = (tmp_path / "seen").read_text()
    found = re.findall(r"@define (\w+)(?:\([\w, ]+\))? %\( ?(\d+)?", seen)
    macros = dict(found)
    assert len(macros) == len(found)
    for enum in ("kt_selection_mode", "kt_selected", "kt_limits"):
        numbers = described("context").numbers(enum)
        assert numbers.items() <= {name: int(n) for name, n in found if n}.items()
    for script in stap_modules.scripts().rglob("*.stp"):
        own = set(re.findall(r"@define (\w+)", script.read_text()))
        used = set(re.findall(r"@([A-Z]\w+|kt_\w+)", script.read_text()))
        assert used <= own | macros.keys(), script.name


def test_other_numbers_are_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Script("exits").digest
    monkeypatch.setattr(stap_modules, "macros", lambda: "")
    assert Script("exits").digest != before
