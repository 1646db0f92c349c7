# SPDX-License-Identifier: Apache-2.0
"""The command line as far as it needs no kernel: help, refusals, exit codes, start-up."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import click
import pytest
from click.shell_completion import ShellComplete
from hypothesis import given
from hypothesis import strategies as st

from tracer import cli, probes
from tracer.agent.history import INDEX
from tracer.agent.history.entry import Entries, Told
from tracer.agent.history.index import Index
from tracer.agent.item import Life
from tracer.cli import _options, _tracing, live, pods
from tracer.identity.inventory import Entry
from tracer.model.errors import (
    CannotOnThisKernel,
    KtraceError,
    MissingPrivilege,
    NoSuchPod,
    UsageError,
)
from tracer.model.names import Names
from tracer.model.selection import Selection
from tracer.outputs import listing
from tracer.session.session import Summary

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = cli.root.list_commands(click.Context(cli.root))


class Result(NamedTuple):
    code: int
    out: str
    err: str


Ktrace = Callable[..., Result]


@pytest.fixture
def ktrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ktrace:
    """Runs `ktrace …` in this process, with everything that `main` does around a command."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ktrace", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, shown.out, shown.err)

    return run


# Help


def test_the_commands_are_found_by_listing() -> None:
    own = COMMANDS[len(probes.names()) :]
    assert probes.names() + sorted(own) == COMMANDS
    assert {"signals", "exits", "trace", "pods", "doctor", "completion"} <= set(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_ends_in_examples(ktrace: Ktrace, command: str, flag: str) -> None:
    code, out, err = ktrace(*filter(None, [command]), flag)
    assert (code, err) == (0, "")
    assert out.count("Examples:\n") == 1
    lines = out.partition("Examples:\n")[2].rstrip("\n").split("\n")
    assert all(line.startswith("  ") and "ktrace " in line for line in lines)
    assert any(f"ktrace {command}".strip() in line for line in lines)


def test_help_lists_every_command_with_a_sentence(ktrace: Ktrace) -> None:
    out = ktrace("--help").out
    for command in COMMANDS:
        (line,) = [ln for ln in out.split("\n") if ln.startswith(f"  {command} ")]
        assert len(line.split()) > 3


def test_help_cuts_no_sentence(ktrace: Ktrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = " ".join(ktrace("--help").out.partition("Commands:")[2].split())
    assert "..." not in shown
    for command in COMMANDS:
        told = cli.root.get_command(click.Context(cli.root), command)
        assert told is not None
        assert told.get_short_help_str(1000) in shown


@pytest.mark.parametrize("command", [*probes.names(), "trace"])
def test_selectors_are_the_same_everywhere(ktrace: Ktrace, command: str) -> None:
    out = ktrace(command, "--help").out
    wanted = "-p, --pod|-n, --namespace|-c, --container|-l, --selector|--sender-pod|--pid|--all"
    wanted += "|--wait|-o, --output|--no-headers|--duration|--count|--backend|--ready-file"
    for option in wanted.split("|"):
        assert f"  {option} " in out, option


def test_version(ktrace: Ktrace) -> None:
    assert ktrace("--version").out.startswith("ktrace, version 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(ktrace: Ktrace, shell: str) -> None:
    code, out, _ = ktrace("completion", shell)
    assert code == 0
    assert "_KTRACE_COMPLETE" in out


POD_NAMES = ["web-0", "web.1", "db", "\x1b[2J[red]web", "web$(reboot)", "web 2", ""]


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        (["signals", "-p"], "web", ["web-0", "web.1"]),
        (["why"], "d", ["d", "db"]),
        (["trace"], "exits,o", ["exits,oom"]),
        (["record"], "sig", ["signals"]),
        (["live"], "re", ["re", "resets"]),
        (["replay"], "in", ["in"]),
        (["info"], "", [""]),
        (["export"], "", [""]),
        (["record", "-o"], "", [""]),
        (["signals", "--record"], "", [""]),
        ([], "sig", ["signals"]),
    ],
)
def test_what_is_completed(
    monkeypatch: pytest.MonkeyPatch, words: list[str], begun: str, completed: list[str]
) -> None:
    """What is only one word in a shell, whatever pods are called. Files the shell finds itself."""
    shown = [dataclasses.replace(ENTRIES[0], pod=name) for name in POD_NAMES]
    monkeypatch.setattr("tracer.identity.inventory.current_names", lambda socket: Names())
    monkeypatch.setattr("tracer.identity.inventory.inventory", lambda names: shown)
    items = ShellComplete(cli.root, {}, "ktrace", "_").get_completions(words, begun)
    assert [item.value for item in items] == completed
    files = {item.value for item in items if item.type == "file"}
    assert files <= {begun}


# Refusals


@pytest.mark.parametrize(
    ("typed", "meant"), [("signal", "signals"), ("exit", "exits"), ("doktor", "doctor")]
)
def test_an_unknown_command_suggests_the_nearest(ktrace: Ktrace, typed: str, meant: str) -> None:
    code, out, err = ktrace(typed)
    assert (code, out) == (2, "")
    assert repr(typed) in err
    assert f"Did you mean {meant!r}?" in err


def test_an_unknown_command_that_is_near_to_nothing(ktrace: Ktrace) -> None:
    code, _, err = ktrace("qqqqqq")
    assert code == 2
    assert "--help" in err
    assert "Did you mean" not in err


USAGE = {
    "an option that is none": (["signals", "--nope"], "--nope"),
    "no output": (["signals", "-o", "xml"], "xml"),
    "no backend": (["signals", "--backend", "magic"], "magic"),
    "count 0": (["signals", "--count", "0"], "--count"),
    "count of words": (["signals", "--count", "many"], "many"),
    "pid 0": (["exits", "--pid", "0"], "--pid"),
    "a pid that no process can have": (["exits", "--pid", "4294967296"], "--pid"),
    "more pids than the kernel side keeps": (
        ["exits", *(word for pid in range(1, 1026) for word in ("--pid", str(pid)))],
        "at most 1024",
    ),
    "all and a pod": (["signals", "--all", "-p", "web"], "leave out --all"),
    "all and a namespace": (["signals", "--all", "-n", "shop"], "leave out --all"),
    "all and a container": (["signals", "--all", "-c", "app"], "leave out --all"),
    "all and labels": (["signals", "--all", "-l", "a=b"], "leave out --all"),
    "all and a sender": (["signals", "--all", "--sender-pod", "x"], "leave out --all"),
    "labels": (["signals", "-l", "app!=web"], "app!=web"),
    "a flight of nothing": (
        ["record", "signals", "--flight", "0", "-o", "x"],
        "ktrace: --flight needs a window\n  such as --flight 10m",
    ),
    "a signal": (["signals", "--signal", "KILLL"], "valid: all, 1-64, HUP"),
    "no signal": (["signals", "--signal", ",", "--duration", "0s"], "valid: all, 1-64, HUP"),
    "a signal among several": (["trace", "signals,exits", "--signal", "9,x"], "'x'"),
    "a probe": (["trace", "signals,exit"], "'exit'"),
    "no probe": (["trace", ","], "the probes are"),
    "nothing to trace": (["trace"], "PROBE"),
    "a pod without its option": (["signals", "web-0"], "-p NAME selects a pod; usage: ktrace"),
    "probes with blanks": (["trace", "signals", "exits"], "usage: ktrace trace [OPTIONS] PROBE[,"),
    "no file": (["replay"], "usage: ktrace replay [OPTIONS] FILE; ktrace replay --help"),
    "an option without its value": (["record", "-o"], "\n  ktrace record --help"),
    "a pid of letters": (["exits", "--pid", "x"], "'x' is not a valid number"),
    **{
        f"an empty {option}": (["exits", option, ""], f"leave out {option} to select all")
        for option in ("--pod", "--namespace", "--container", "--selector", "--sender-pod")
    },
    "a shell": (["completion", "tcsh"], "tcsh"),
    "a socket": (["pods", "--cri-socket", "/no/such.sock"], "/no/such.sock"),
}


@pytest.mark.parametrize(("arguments", "said"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage(ktrace: Ktrace, arguments: list[str], said: str) -> None:
    code, out, err = ktrace(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("ktrace: ")
    assert err.count("\n") <= 2


def test_wrong_usage_names_the_help(ktrace: Ktrace) -> None:
    problem, remedy = ktrace("stap", "build", "--kernle", "x").err.splitlines()
    assert "Did you mean '--kernel'?" in problem
    assert remedy == "  ktrace stap build --help"


@pytest.mark.parametrize(
    "word", ["", "5x", "s", "-3s", "1h 30m", "1.2.3", "1.2.3s", "nan", "inf", "1e3", "5s5", ".5s"]
)
def test_a_duration_that_is_none(ktrace: Ktrace, word: str) -> None:
    code, _, err = ktrace("signals", "--duration", word)
    assert code == 2
    assert f"{word!r} is not a duration: 30s, 5m or 1h30m" in err


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("2d", 172800),
        ("7", 7),
        ("0.5", 0.5),
        ("1m500ms", 60.5),
    ],
)
def test_durations(word: str, seconds: float) -> None:
    assert _options.Duration().convert(word, None, None) == pytest.approx(seconds)


@given(st.text(st.sampled_from("0123456789.hmsd "), max_size=8))
def test_any_word_is_a_duration_or_a_usage_error(word: str) -> None:
    try:
        assert _options.Duration().convert(word, None, None) >= 0
    except click.UsageError as error:
        assert error.exit_code == 2


# What options mean


def parsed(*arguments: str) -> Selection:
    command = _tracing.probe_command(probes.get("signals"))
    return _options.selection(command.make_context("signals", list(arguments)).params)


def test_selectors_become_a_selection() -> None:
    assert parsed() == Selection()
    assert parsed("--all") == Selection(everything=True)
    short = parsed("-p", "a", "-p", "b/c", "-n", "d", "-c", "e", "-l", "f=g,h", "--pid", "7")
    assert short == Selection(
        pods=("a", "b/c"),
        namespaces=("d",),
        containers=("e",),
        labels=(("f", "g"), ("h", None)),
        pids=frozenset({7}),
    )
    assert parsed("--all", "--pid", "7") == Selection(everything=True, pids=frozenset({7}))
    assert parsed("--sender-pod", "x") == Selection(sender_pods=("x",))


def mask(*arguments: str) -> int:
    probe = probes.get("signals")
    command = _tracing.probe_command(probe)
    values = command.make_context("signals", list(arguments)).params
    return _options.options_of(probe, values).settings(Selection())["kt_signal_mask"]


def test_signals_become_a_mask() -> None:
    everything = (1 << 64) - 1
    assert mask("--signal", "KILL,TERM") == 1 << 8 | 1 << 14
    assert mask("--signal", "all") == everything
    plumbing = sum(1 << number - 1 for number in (17, 23, 27, 28))
    assert mask() == everything - plumbing


@pytest.mark.parametrize(
    ("choice", "no_color", "terminal", "colour"),
    [
        ("auto", None, True, True),
        ("auto", None, False, False),
        ("auto", "1", True, False),
        ("auto", "", True, True),
        ("always", "1", False, True),
        ("never", None, True, False),
    ],
)
def test_colour(
    monkeypatch: pytest.MonkeyPatch, choice: str, no_color: str | None, terminal: bool, colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert _options.in_colour(choice) is colour


def test_the_closing_line() -> None:
    assert _tracing.closing_line(Summary(3, 2, 0, 1.26)) == "ktrace: 3 events, 2 lost, 1.3 s"
    assert "4 more were left out" in _tracing.closing_line(Summary(3, 2, 4, 1.0))
    line = _tracing.closing_line(Summary(3, 2, 0, 1.26), forgotten=7)
    assert line.endswith(
        "1.3 s; 7 timelines of what still runs had been forgotten, as there was too much of them"
    )


def test_the_closing_line_of_the_live_view(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class App:
        failure = None
        feed = SimpleNamespace(
            probes=["signals"],
            player=None,
            model=SimpleNamespace(timelines=SimpleNamespace(forgotten=7)),
            summary=lambda: Summary(3, 2, 0, 1.26),
        )

        def __init__(self, *arguments: Any) -> None: ...
        def run(self) -> None: ...
        def wait(self) -> None: ...

    monkeypatch.setattr("tracer.live.app.LiveApp", App)
    live._show(cast(Any, None), None)
    told = capsys.readouterr().err
    assert told.startswith("ktrace: 3 events, 2 lost, 1.3 s; 7 timelines of what still runs")


def test_a_ready_file(tmp_path: Path) -> None:
    _tracing.tell_ready(str(tmp_path / "ready"))
    assert (tmp_path / "ready").exists()
    with pytest.raises(UsageError, match="--ready-file"):
        _tracing.tell_ready(str(tmp_path / "none" / "ready"))


def test_a_ready_file_follows_no_link(tmp_path: Path) -> None:
    """Whoever may write there could have laid it to a file of somebody else."""
    (tmp_path / "mine").write_text("mine")
    for target in ("mine", "nothing"):
        link = tmp_path / f"to-{target}"
        link.symlink_to(tmp_path / target)
        with pytest.raises(UsageError, match=f"--ready-file {link}: it is a symbolic link"):
            _tracing.tell_ready(str(link))
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


# Errors and exit codes


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (KtraceError, 1),
        (UsageError, 2),
        (MissingPrivilege, 3),
        (CannotOnThisKernel, 4),
        (NoSuchPod, 5),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(
    ktrace: Ktrace, monkeypatch: pytest.MonkeyPatch, kind: type[KtraceError], code: int
) -> None:
    def fail(**values: Any) -> None:
        raise kind("this is wrong", "do that")

    monkeypatch.setattr(pods.command, "callback", fail)
    assert ktrace("pods") == (code, "", "ktrace: this is wrong\n  do that\n")


def test_an_error_of_the_system_is_one_line(
    ktrace: Ktrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pods.command, "callback", fail)
    code, _, err = ktrace("pods")
    assert code == 1
    assert err == "ktrace: writing the output: No space left on device\n"


def test_names_in_errors_cannot_reach_the_terminal(
    ktrace: Ktrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "\x1b[2J\u202ex"
    escaped = "\\x1b[2J\\u202ex"

    def fail(**values: Any) -> None:
        raise error

    monkeypatch.setattr(pods.command, "callback", fail)
    error: Exception = KtraceError(f"no {hostile}", f"take {hostile}")
    assert ktrace("pods").err == f"ktrace: no {escaped}\n  take {escaped}\n"
    error = FileNotFoundError(2, "No such file", hostile)
    assert ktrace("pods").err == f"ktrace: {escaped}: No such file\n"
    error = click.UsageError(f"no {hostile}")
    assert ktrace("pods").err == f"ktrace: no {escaped}\n  ktrace pods --help\n"


def subprocess_run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("command", [["--help"], ["signals", "--help"], ["completion", "bash"]])
def test_a_closed_pipe_ends_quietly_and_well(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess_run(sys.executable, "-m", "tracer", *command, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_exit_code_of_an_error_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tracer", "sgnals"]
    ended = subprocess.run(command, cwd=ROOT, stderr=writer, timeout=60, check=False)
    os.close(writer)
    assert ended.returncode == 2


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_standard_streams_that_are_closed_lead_nowhere(closed: tuple[int, ...]) -> None:
    code = "import os; from tracer import cli\n"
    code += "try: cli.main()\n"
    code += "finally: assert all(os.get_inheritable(fd) for fd in range(3))"
    script = f'exec "$0" -c "$@" {" ".join(f"{fd}>&-" for fd in closed)}'
    words = [sys.executable, code, "decode", "137"]
    ended = subprocess_run("sh", "-c", script, *words, stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("SIGKILL" in ended.stdout) is (1 not in closed)


INTERRUPTED = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
print("went on")
raise SystemExit(7)
"""


@pytest.mark.parametrize("module", ["click", "difflib", "orjson"])
@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_before_anything_has_begun(module: str, ignored: bool, tmp_path: Path) -> None:
    """As Ctrl-C in the first moments, while modules are imported: an end like any other program's,
    unless it is not to be interrupted at all."""
    (tmp_path / f"{module}.py").write_text(INTERRUPTED)
    inherited = signal.SIG_IGN if ignored else signal.SIG_DFL
    command = [sys.executable, "-m", "tracer", "sgnals" if module == "difflib" else "info", "x"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        # these tests may themselves run where it is ignored, as in a shell's background
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )
    told = (ended.returncode, ended.stdout, ended.stderr)
    assert told == ((7, "went on\n", "") if ignored else (130, "", ""))


INTERRUPTED_LAST = """
import os, signal, sys
from {module} import main

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)

last = Last()  # goes when Python clears its modules
sys.argv = ["ktrace", "--version"]
main()
"""


@pytest.mark.parametrize("module", ["tracer.__main__", "tracer.kubectl.__main__"])
def test_interrupted_after_its_end(module: str) -> None:
    """When Python has forgotten all handlers, Ctrl-C changes nothing of how it went."""
    program = INTERRUPTED_LAST.format(module=module)
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (told.returncode, told.stderr) == (0, b"")


def test_the_command_begins_where_interrupts_are_taken_care_of() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="ktrace")
    assert entry.value == "tracer.__main__:main"


def test_what_an_encoding_lacks_is_an_escape() -> None:
    command = [sys.executable, "-m", "tracer", "signals", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ended = subprocess_run(*command, stdout=subprocess.PIPE, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Stop after 30s, 5m \\u2026" in ended.stdout


@pytest.mark.parametrize("command", [["signals"], ["exits", "--all"], ["trace", "signals,exits"]])
def test_without_privileges(command: list[str]) -> None:
    """As nobody, who may still read this clone wherever it lies."""
    drop: list[str] = []
    if os.geteuid() == 0:
        read = "-all,+dac_read_search"
        drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        drop += [f"--inh-caps={read}", f"--ambient-caps={read}"]
    ended = subprocess_run(
        *drop, sys.executable, "-B", "-m", "tracer", *command, stdout=subprocess.PIPE
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    problem, remedy = ended.stderr.rstrip("\n").split("\n")
    assert "CAP_BPF" in problem
    assert "CAP_PERFMON" in problem
    assert "sudo ktrace" in remedy


def test_usage_comes_before_privileges() -> None:
    """Whoever is not root still learns about a typing error."""
    assert cli.root.commands == {}
    with pytest.raises(UsageError):
        command = _tracing.probe_command(probes.get("signals"))
        command.main(["--all", "-p", "x"], standalone_mode=False)


# Start-up


HEAVY = {"grpc", "google.protobuf", "h2", "rich", "elftools", "psutil", "textual", "zstandard"}


@pytest.mark.parametrize(
    "code",
    [
        "import tracer.cli",
        "import tracer.cli._tracing",
        "from tracer.cli import root; root.main(['signals', '--help'], standalone_mode=False)",
        "from tracer.cli import root; root.main(['--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_at_the_start(code: str) -> None:
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    ended = subprocess_run(sys.executable, "-c", code, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    loaded = set(ended.stderr.split())
    assert "tracer.cli" in loaded
    assert loaded & HEAVY == set()


TRACING = {"tracer.session", "tracer.decode.text", "tracer.why.engine", "tracer.recording.format"}


def test_an_answer_from_the_history_needs_nothing_that_traces(tmp_path: Path) -> None:
    life = Life(pod_uid="u1", namespace="shop", pod="web-0", container="app", container_id="c1")
    told = Told(life, 7, "killed", "certain", "killed", True, b"{}", "shop/web-0 app: killed")
    index = Index(tmp_path / INDEX)
    index.take(1, 1, 7, Entries(verdicts=(told,)), 7)
    index.close()
    code = "from tracer.cli import root\n"
    code += f"root.main(['why', 'shop/web-0', '--dir', {str(tmp_path)!r}], standalone_mode=False)\n"
    code += "import sys; print(*sys.modules, file=sys.stderr)"
    ended = subprocess_run(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert ended.stdout.startswith("shop/web-0 app: killed")
    assert set(ended.stderr.split()) & (HEAVY | TRACING) == set()


# pods


ENTRIES = [
    Entry("shop", "web-0", "u1", "nginx", "a" * 64, "containerd", 7, "Burstable", "/a", 42),
    Entry(None, None, "u2", None, "b" * 64, None, None, None, "/b", None),
    Entry("\x1b[31m", "a\nb", "u3", '"', "c" * 64, "docker", 1, None, "/c\x07", 1),
]


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    shown = list(ENTRIES)
    monkeypatch.setattr(pods, "current_names", lambda socket, say: Names())
    monkeypatch.setattr(pods, "inventory", lambda names: shown)
    return shown


def test_pods_as_a_table(ktrace: Ktrace, entries: list[Entry]) -> None:
    code, out, err = ktrace("pods")
    header, first, second, third = out.rstrip("\n").split("\n")
    assert (code, err) == (0, "")
    assert header.split() == ["NAMESPACE", "POD", "CONTAINER", "ID", "PID", "QOS", "NETNS"]
    assert first.split() == ["shop", "web-0", "nginx", "a" * 12, "7", "Burstable", "42"]
    assert second.split() == ["–", "u2", "–", "b" * 12, "–", "–", "–"]
    assert third.split()[:2] == ["\\x1b[31m", "a\\nb"]
    assert header.index("POD") == first.index("web-0") == third.index("a\\nb")
    without = ktrace("pods", "--no-headers").out.rstrip("\n").split("\n")
    assert [line.split() for line in without] == [line.split() for line in (first, second, third)]


def test_pods_says_why_names_are_missing(
    ktrace: Ktrace, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(socket: str | None, say: Callable[[str], None]) -> Names:
        say(f"names may be missing: cri {socket}: \x1b[2J")
        return Names()

    monkeypatch.setattr(pods, "current_names", silent)
    code, out, err = ktrace("pods")
    assert (code, "web-0" in out) == (0, True)
    assert err == "ktrace: names may be missing: cri None: \\x1b[2J\n"


def test_pods_wide(ktrace: Ktrace, entries: list[Entry]) -> None:
    out = ktrace("pods", "-o", "wide").out
    assert out.split("\n")[0].split()[-3:] == ["RUNTIME", "UID", "CGROUP"]
    assert out.split("\n")[1].split()[-3:] == ["containerd", "u1", "/a"]
    assert "/c\\x07" in out


def test_pods_on_a_narrow_terminal(
    ktrace: Ktrace, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries[:] = [dataclasses.replace(ENTRIES[0], pod="web-7d9f4c8b6-x2x7k")]
    monkeypatch.setattr(listing, "terminal_width", lambda: 60)
    header, row = ktrace("pods").out.splitlines()
    assert header.split() == ["NAMESPACE", "POD", "CONTAINER", "ID", "PID"]
    assert row.split() == ["shop", "web-7d9f4c8b6-x2x7k", "nginx", "a" * 12, "7"]
    monkeypatch.setattr(listing, "terminal_width", lambda: 45)
    assert max(map(len, ktrace("pods").out.splitlines())) <= 45
    wide = ktrace("pods", "-o", "wide").out.splitlines()
    assert len(wide[1]) > 60, "a wide table is never cut"


@pytest.mark.parametrize("width", [1, 5, 12, 20, 33])
def test_pods_where_no_columns_fit(
    width: int, ktrace: Ktrace, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what is most important is missing."""
    monkeypatch.setattr(listing, "terminal_width", lambda: width)
    code, out, _ = ktrace("pods")
    assert code == 0
    assert all(len(line) <= width for line in out.splitlines())
    together = "".join(out.split())
    assert together.startswith("NAMESPACEPODCONTAINER")
    assert "shopweb-0nginx" in together


def test_pods_as_json(ktrace: Ktrace, entries: list[Entry]) -> None:
    rows = [json.loads(line) for line in ktrace("pods", "-o", "json").out.split("\n")[:-1]]
    assert [row["pod_uid"] for row in rows] == ["u1", "u2", "u3"]
    assert rows[1]["pod"] is None
    assert rows[2]["namespace"] == "\x1b[31m"
    assert rows[0].keys() == set(Entry.__slots__)


def test_pods_of_a_namespace(ktrace: Ktrace, entries: list[Entry]) -> None:
    out = ktrace("pods", "-n", "sh*", "--no-headers").out
    assert len(out.splitlines()) == 1
    assert "web-0" in out


def test_a_node_without_containers(ktrace: Ktrace, entries: list[Entry]) -> None:
    code, out, err = ktrace("pods", "-n", "nowhere")
    assert (code, out) == (1, "")
    assert "in that namespace" in err
    entries.clear()
    assert ktrace("pods").code == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("-1", "exit code -1: in 8 bits"),
        ("-9", "SIGKILL"),
        ("-1073741819", "STATUS_ACCESS_VIOLATION"),
    ],
)
def test_a_negative_code_is_no_option(ktrace: Ktrace, number: str, said: str) -> None:
    """So programs print them; whoever knows of -- may still write it."""
    for words in ((number,), ("--", number)):
        code, out, _ = ktrace("decode", *words)
        assert (code, said in out) == (0, True), out
    assert ktrace("decode", "-x").code == 2
