# SPDX-License-Identifier: Apache-2.0
"""The lab's own logic, without a virtual machine: which facts are reported, and which no more."""

from __future__ import annotations

import io
import json
import lzma
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.lab import arm64, core, lab, machine
from tests.lab.__main__ import main
from tests.lab.document import PART, markdown, part_of, replaced
from tests.lab.guest import judge_skip
from tests.lab.guests import SUITES, chosen
from tests.lab.image import PROJECT, Additions
from tests.lab.kernels import Kernel, LabError, Suite
from tests.lab.machine import BOOTS, Machines
from tests.lab.makers import maker
from tests.lab.matrix import show
from tests.lab.results import Outcome, Results, describe_failures
from tests.lab.staging import telling
from tests.support.markdown import LONGEST
from tests.support.wait import WaitTimeout
from tracer import backends, probes

BEGIN, END = PART.begin, PART.end
FIRST, SECOND = "tests/kernel/test_signals.py::test_one", "tests/kernel/test_exits.py::test_two[3]"


def line(kind: str, **facts: Any) -> bytes:
    return json.dumps({"kind": kind, **facts}).encode()


def began(test: str) -> bytes:
    return line("began", test=test)


def ended(test: str, outcome: str, why: str = "", again: str = "") -> bytes:
    return line("ended", test=test, outcome=outcome, seconds=1.5, why=why, again=again)


BEGINNING = [
    line("kernel", release="5.10.0-1-test"),
    line("probe", name="signals", point="tp_btf/signal_generate", cannot=None, log=None),
    line("probe", name="exits", point="tp_btf/sched_process_exit", cannot=None, log=None),
    line("collected", tests=[FIRST, SECOND]),
]


def told(*lines: bytes) -> Results:
    results = Results("5.10")
    for each in [*BEGINNING, *lines]:
        results.take(each)
    return results


def test_everything_passed() -> None:
    results = told(
        *(began(FIRST), ended(FIRST, "passed"), began(SECOND), ended(SECOND, "passed")),
        line("end", code=0),
    )
    assert results.good
    assert results.release == "5.10.0-1-test"
    assert results.counts() == {"passed": 2}
    assert results.counts("exits") == {"passed": 1}
    assert describe_failures(results) == ""


def test_what_was_said_of_an_incident() -> None:
    results = told(line("said", incident="a kill", verdicts=[{"verdict": "killed_from_host"}]))
    assert results.verdicts == {"a kill": [{"verdict": "killed_from_host"}]}


def test_a_failure_tells_why() -> None:
    results = told(
        *(began(FIRST), ended(FIRST, "failed", "assert 22 == 23")),
        *(began(SECOND), ended(SECOND, "cannot", "no cgroup.kill"), line("end", code=1)),
    )
    assert not results.good
    assert not results.lost
    assert results.counts() == {"failed": 1, "cannot": 1}
    assert FIRST in describe_failures(results)
    assert "assert 22 == 23" in describe_failures(results)


def test_what_a_kernel_cannot_is_no_failure() -> None:
    results = told(
        *(ended(FIRST, "passed"), ended(SECOND, "cannot", "no cgroup.kill"), line("end", code=0))
    )
    assert results.good


def test_a_probe_that_does_not_attach() -> None:
    results = told(ended(FIRST, "passed"), ended(SECOND, "passed"))
    results.take(
        line("probe", name="exits", point=None, cannot="none of", log="R1 invalid mem access")
    )
    results.take(line("end", code=0))
    assert not results.good
    assert "R1 invalid mem access" in describe_failures(results)


def test_what_passed_at_its_second_try_is_told() -> None:
    results = told(
        *(ended(FIRST, "passed"), ended(SECOND, "passed", again="Traceback …\nE  22 != 23")),
        line("end", code=0),
    )
    assert results.good
    console = Console(record=True, width=200, file=io.StringIO())
    show([results], console)
    assert f"{SECOND} passed at its second try: E  22 != 23" in console.export_text()


def test_no_tests_are_no_success() -> None:
    results = Results("5.10")
    for each in [*BEGINNING[:3], line("collected", tests=[]), line("end", code=5)]:
        results.take(each)
    assert not results.good
    assert "no tests" in describe_failures(results)


def test_a_test_that_never_ran() -> None:
    results = told(ended(FIRST, "passed"), line("end", code=0))
    assert not results.good
    assert SECOND in describe_failures(results)


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([], "before its tests began"),
        ([began(FIRST)], f"during {FIRST}"),
        ([began(FIRST), ended(FIRST, "passed")], f"after {FIRST}"),
    ],
)
def test_a_lost_machine_tells_how_far_it_came(lines: list[bytes], where: str) -> None:
    results = told(*lines)
    results.lose("its process ended with -9")
    results.console = "Kernel panic - not syncing: Oops"
    assert not results.good
    assert results.began is bool(lines)
    assert results.lost == f"the machine was lost {where}: its process ended with -9"
    assert "Kernel panic" in describe_failures(results)
    assert not results.failures


def test_a_line_that_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        Results("5.10").take(line("nonsense"))


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (
            "cannot: no cgroup.kill before Linux 5.14",
            ("cannot", "no cgroup.kill before Linux 5.14"),
        ),
        ("needs root", ("failed", "skipped, and not because of this kernel: needs root")),
    ],
)
def test_only_what_a_kernel_cannot_may_be_skipped(reason: str, outcome: tuple[str, str]) -> None:
    assert judge_skip(reason) == outcome


SAMPLE = """
import pytest

def test_good():
    pass

def test_bad():
    print("some output")
    assert 22 == 23

def test_skipped():
    pytest.skip("not today")

def test_cannot():
    pytest.skip("cannot: no such feature")

@pytest.fixture
def broken():
    yield
    raise RuntimeError("broken")

def test_teardown(broken):
    pass
"""


def test_a_whole_run(tmp_path: Path) -> None:
    """pytest's side and ours, through a real run in another process."""
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_that_name")
    results = Results("here")
    Machines().run(lambda fd: run_of(tmp_path, fd), results, tmp_path)
    assert results.lost is None
    assert results.ended and not results.good
    outcomes = {o.test.rpartition("/")[2].partition("::")[2]: o for o in results.outcomes}
    assert {name: outcome.what for name, outcome in outcomes.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_skipped": "failed",
        "test_cannot": "cannot",
        "test_teardown": "failed",
        "": "failed",
    }
    assert "assert 22 == 23" in outcomes["test_bad"].why
    assert "some output" in outcomes["test_bad"].why
    assert "RuntimeError: broken" in outcomes["test_teardown"].why
    assert "nothing_of_that_name" in outcomes[""].why


def run_of(directory: Path, descriptor: int) -> list[str]:
    """As in a guest, but without attaching probes, which needs root."""
    program = (
        "import sys; from tests.lab import core, guest; core.PROBES = ();"
        " sys.exit(guest.main(sys.argv[1], sys.argv[2:]))"
    )
    options = ["--continue-on-collection-errors", "-c", "/dev/null", str(directory)]
    return [sys.executable, "-c", program, str(descriptor), *options]


def program(words: str) -> Callable[[int], list[str]]:
    """A machine that is a few lines of Python; `results` is its port."""
    opening = "import os, sys; results = open(int(sys.argv[1]), 'wb', 0); "
    return lambda fd: [sys.executable, "-c", opening + words, str(fd)]


@pytest.mark.parametrize("step", ["", "waiting for the first ends"])
def test_what_breaks_outside_of_a_stage_is_told(tmp_path: Path, step: str) -> None:
    """The guest is off before its console shows it."""
    port = tmp_path / "port"
    with pytest.raises(WaitTimeout), telling(str(port), [FIRST, SECOND]) as stage:
        stage.run(FIRST, lambda: [{"verdict": "a"}])
        if step:
            stage.begin(step)
        raise WaitTimeout("waited 120 s for nothing")
    results = Results("6.1")
    for each in port.read_bytes().splitlines():
        results.take(each)
    assert results.ended and not results.lost and not results.good
    assert results.verdicts == {FIRST: [{"verdict": "a"}]}
    assert results.missing == [SECOND]
    (failure,) = results.failures
    assert failure.test == (step or f"after {FIRST}")
    assert "WaitTimeout: waited 120 s for nothing" in describe_failures(results)


def test_a_stage_that_fails_is_followed_by_the_next(tmp_path: Path) -> None:
    """Steps it waited for meanwhile are no stages."""
    port = tmp_path / "port"
    with telling(str(port), [FIRST, SECOND]) as stage:
        stage.run(FIRST, lambda: stage.wait("a number", lambda: 1) / 0, lambda: "the log")
        stage.run(SECOND, lambda: stage.wait("what is there", lambda: [{"verdict": "b"}]))
    results = Results("6.1")
    for each in port.read_bytes().splitlines():
        results.take(each)
    assert [(one.test, one.what) for one in results.outcomes] == [
        (FIRST, "failed"),
        (SECOND, "passed"),
    ]
    assert results.verdicts == {SECOND: [{"verdict": "b"}]}
    assert "ZeroDivisionError" in results.failures[0].why
    assert results.failures[0].why.endswith("the log")


def test_a_machine_that_ends_too_early(tmp_path: Path) -> None:
    results = Results("5.10")
    lines = b"".join(each + b"\n" for each in (BEGINNING[0], began(FIRST)))
    told = f"print('Oops', flush=True); results.write({lines!r}); os._exit(3)"
    Machines().run(program(told), results, tmp_path)
    how = "its process ended with 3, its console with Oops"
    assert results.lost == f"the machine was lost during {FIRST}: {how}"
    assert results.boot_seconds > 0
    assert results.console == "Oops\n"


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SILENCE_SECONDS", 0.1)
    results = Results("5.10")
    Machines().run(program("sys.stdin.read(); os.read(results.fileno(), 1)"), results, tmp_path)
    assert results.lost and "nothing was heard from it for 0.1 s" in results.lost


def test_a_machine_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "TOTAL_SECONDS", 0.1)
    results = Results("5.10")
    Machines().run(program("os.read(results.fileno(), 1)"), results, tmp_path)
    assert results.lost and "its tests took longer than 0.1 s" in results.lost


def test_a_machine_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "END_SECONDS", 0.1)
    results = Results("5.10")
    told = f"results.write({line('end', code=0)!r} + b'\\n'); os.read(results.fileno(), 1)"
    Machines().run(program(told), results, tmp_path)
    assert results.lost and "did not end" in results.lost
    assert not results.good


@pytest.mark.parametrize(("begin", "boots"), [(False, BOOTS), (True, 1)])
def test_only_what_was_lost_before_its_tests_is_booted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begin: bool, boots: int
) -> None:
    told = f"results.write({began(FIRST)!r} + b'\\n')" if begin else "pass"
    monkeypatch.setattr(machine, "qemu", lambda *_: program(told))
    kernel = Kernel("5.10.0-1-test", tmp_path, tmp_path, tmp_path)
    results = Machines().boot("5.10", kernel, tmp_path, tmp_path, tmp_path)
    assert results.lost
    assert results.boots == boots


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    machines, results = Machines(), Results("5.10")
    runs = threading.Event()

    def waiting(fd: int) -> list[str]:
        runs.set()
        return program("os.read(results.fileno(), 1)")(fd)

    thread = threading.Thread(target=machines.run, args=(waiting, results, tmp_path))
    thread.start()
    assert runs.wait(10)
    machines.close()
    thread.join(10)
    assert not thread.is_alive()
    assert results.lost and "ended with -9" in results.lost
    with pytest.raises(LabError):
        machines.run(waiting, Results("5.10"), tmp_path)


def test_the_probe_of_a_test() -> None:
    names = ["test_oom.py::test_one", "signals/test_raising.py::test_two[a/b::c]"]
    outcomes = [Outcome(f"tests/kernel/{name}", "passed", 0, "") for name in names]
    assert [outcome.probe for outcome in outcomes] == ["oom", "signals"]


def test_the_matrix() -> None:
    lost = told(began(FIRST))
    lost.lose("its process ended with -9")
    whole = told(
        ended(FIRST, "passed"), ended(SECOND, "cannot", "no cgroup.kill"), line("end", code=0)
    )
    text = io.StringIO()
    show([lost, whole], Console(file=text, width=160))
    for words in ("tp_btf/signal_generate", "1 passed", "1 cannot", "lost", "no cgroup.kill"):
        assert words in text.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """The rows of all tables, without the lines below the titles."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines]
    return [row for row in cells if set(row) != {"---"}]


def test_the_matrix_of_the_documentation() -> None:
    whole = told(
        ended(FIRST, "passed", again="Traceback …\nE  22 != 23\nE  Use -v\n--- its output"),
        *(ended(SECOND, "cannot", "no cgroup.kill"), line("end", code=0)),
    )
    whole.seconds = 61.7
    other = Results("6.1-bcc", ("bcc", "core"), "arm64", "wheel")
    for each in [
        line("kernel", release="6.1.0-1-test"),
        line("probe", name="signals", point="raw_tp/signal_generate", cannot=None, log=None),
        line("probe", name="exits", point=None, cannot="no room | left", log=None),
        line("collected", tests=[FIRST, SECOND]),
        ended(FIRST, "failed", "assert 1\nE  12 != 23"),
        line("end", code=1),
    ]:
        other.take(each)
    text = markdown([whole, other])
    titles, *rows = rows_of(text)
    assert [dict(zip(titles, row, strict=True)) for row in rows[:2]] == [
        {
            **{"guest": "5.10", "kernel": "`5.10.0-1-test`", "backend": "core", "all": "good"},
            **{"architecture": "amd64", "form": "clone"},
            **{"passed": "1", "failed": "0", "cannot": "1", "second try": "1", "seconds": "62"},
        },
        {
            **{"guest": "6.1-bcc", "kernel": "`6.1.0-1-test`", "backend": "bcc, core"},
            **{"architecture": "arm64", "form": "wheel"},
            **{"passed": "0", "failed": "1", "cannot": "0", "second try": "0", "seconds": "0"},
            "all": "**not good**",
        },
    ]
    assert rows[2:] == [
        ["probe", "attached at", "guests"],
        ["exits", "`tp_btf/sched_process_exit`", "5.10"],
        ["exits", r"**nowhere**: `no room \| left`", "6.1-bcc"],
        ["signals", "`tp_btf/signal_generate`", "5.10"],
        ["signals", "`raw_tp/signal_generate`", "6.1-bcc"],
    ]
    assert [remark for remark in text.splitlines() if remark.startswith("-")] == [
        f"- 5.10: `{SECOND}` cannot: `no cgroup.kill`",
        f"- 5.10: `{FIRST}` passed at its second try: `E 22 != 23`",
        f"- 6.1-bcc: `{SECOND}` never ran",
        f"- 6.1-bcc: `{FIRST}` failed: `E 12 != 23`",
    ]


def test_guests_that_attached_at_the_same_place_share_a_row() -> None:
    one, other = told(line("end", code=0)), told(line("end", code=0))
    other.label = "6.1"
    assert ["signals", "`tp_btf/signal_generate`", "5.10, 6.1"] in rows_of(markdown([one, other]))


def test_a_lost_machine_is_lost_in_the_documentation() -> None:
    early, late = Results("6.12"), told(began(FIRST))
    for lost in (early, late):
        lost.lose("its process ended with -9")
    text = markdown([early, late])
    _, first, second, *rest = rows_of(text)
    assert (first[:2], first[-1]) == (["6.12", "not told"], "**lost**")
    assert (second[:2], second[-1]) == (["5.10", "`5.10.0-1-test`"], "**lost**")
    assert ["signals", "**lost** before that was told", "6.12"] in rest
    assert f"- 5.10: `the machine was lost during {FIRST}: its process ended with -9`" in text
    assert "good" not in text and "never ran" not in text


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_nothing_that_a_guest_tells_leaves_its_place(release: str, point: str, why: str) -> None:
    results = Results("5.10")
    for each in [
        line("kernel", release=release),
        line("probe", name="signals", point=f"a{point}", cannot=None, log=None),
        line("collected", tests=[FIRST]),
        ended(FIRST, "failed", f"{why}!\n{END}{why}"),
        line("end", code=1),
    ]:
        results.take(each)
    text = markdown([results])
    lines = text.splitlines()
    assert [each[:2] for each in lines] == ["| "] * 3 + [""] + ["| "] * 3 + [""] + ["- "]
    assert {len(row) for row in rows_of(text)} == {3, 11}
    assert max(map(len, lines)) < 3 * LONGEST
    assert replaced(replaced(DOCUMENT, text), text) == replaced(DOCUMENT, text)


DOCUMENT = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert replaced(DOCUMENT, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize(
    "text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{DOCUMENT}{DOCUMENT}", f"x{BEGIN}\n{END}\n"]
)
def test_a_document_without_a_place_for_the_matrix(text: str) -> None:
    with pytest.raises(LabError, match="needs these two lines"):
        replaced(text, "new")


def test_the_documentation_tells_of_every_guest() -> None:
    """If this fails: make matrix."""
    text = (PROJECT / "docs" / "compatibility.md").read_text()
    matrix = text.partition(BEGIN)[2].partition(END)[0]
    told = [row[0] for row in rows_of(matrix) if len(row) == 11]
    assert told == ["guest", *(suite.label for suite in SUITES), "own"]
    part = part_of("arm64")
    matrix = text.partition(part.begin)[2].partition(part.end)[0]
    told = [row[0] for row in rows_of(matrix) if len(row) == 11]
    assert told == ["guest", *(suite.label for suite in arm64.SUITES)]


@pytest.mark.parametrize(
    "chosen",
    [["6.1"], ["--no-own"], ["--test", "tests/unit"], ["arm64", "--test", "tests/unit"]],
)
def test_the_documentation_tells_of_whole_runs_only(tmp_path: Path, chosen: list[str]) -> None:
    document = tmp_path / "document.md"
    document.write_text(DOCUMENT)
    done = CliRunner().invoke(main, [*chosen, "--write", str(document)])
    assert (done.exit_code, document.read_text()) == (2, DOCUMENT)
    assert "--write tells of a whole run" in done.output


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The disks that the lab was asked to build; its machines are a few lines of Python. There is
    one more backend, which is only a module in the lab's folder."""
    built: list[dict[str, Any]] = []

    def build(tests: Sequence[str], _: Path, **details: Any) -> Path:
        built.append({"tests": tests, **details})
        return tmp_path

    kernel = Kernel("1.0-test", tmp_path, tmp_path, tmp_path)
    made = ModuleType("tests.lab.made")
    made.TESTS = ("tests/made",)  # type: ignore[attr-defined]
    made.fetched = lambda *_: kernel  # type: ignore[attr-defined]
    made.additions = lambda *_: Additions((Path("/made"),))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(core, "fetched", lambda *_: kernel)
    monkeypatch.setattr(core, "additions", lambda *_: Additions())
    monkeypatch.setattr(lab, "build_disk", build)
    monkeypatch.setattr(lab, "build_initramfs", lambda *_: tmp_path)
    whole = [*BEGINNING, ended(FIRST, "passed"), ended(SECOND, "passed"), line("end", code=0)]
    lines = b"".join(each + b"\n" for each in whole)
    monkeypatch.setattr(machine, "qemu", lambda *_: program(f"results.write({lines!r})"))
    return built


def test_a_guest_has_what_each_of_its_backends_needs(disks: list[dict[str, Any]]) -> None:
    suite = Suite("new", "1.0", ("made", "core"))
    with lab.Lab([suite], lambda _: None) as running:
        results = running.results(suite)
    assert results.good
    assert (results.label, results.backends) == ("1.0-made", ("made", "core"))
    additions = Additions((Path("/made"),))
    assert disks == [
        {"tests": ("tests/made",), "backends": ("made", "core"), "additions": additions}
    ]


def test_guests_with_the_same_needs_share_a_disk(disks: list[dict[str, Any]]) -> None:
    suites = [Suite("new", "1.0"), Suite("newer", "2.0"), Suite("new", "1.0", ("made",))]
    with lab.Lab(suites, lambda _: None, ["a_test.py"]) as running:
        assert all(running.results(suite).good for suite in suites)
    assert sorted(disk["backends"] for disk in disks) == [("core",), ("made",)]
    assert {tuple(disk["tests"]) for disk in disks} == {("a_test.py",)}


@pytest.mark.parametrize(("brief", "tests"), [(True, "some"), (False, "tests/made")])
def test_some_tests_of_a_kernel_between_others(
    disks: list[dict[str, Any]], brief: bool, tests: str
) -> None:
    suite = Suite("new", "1.0", ("made",), brief=("some",))
    with lab.Lab([suite], lambda _: None, brief=brief) as running:
        assert running.results(suite).good
    assert [disk["tests"] for disk in disks] == [(tests,)]


def test_what_kernels_between_leave_out() -> None:
    """Nothing that is new, and no whole file: each probe keeps some."""
    oldest, *_, newest = core.SUITES
    assert not (oldest.brief or newest.brief)
    lines = (PROJECT / core.BETWEEN[0].removeprefix("@")).read_text().splitlines()
    assert tuple(lines[: len(core.TESTS)]) == core.TESTS
    left_out: dict[str, set[str]] = {}
    for line in lines[len(core.TESTS) :]:
        file, _, test = line.removeprefix("--deselect=").partition("::")
        left_out.setdefault(file, set()).add(test.partition("[")[0])
    for file, tests in left_out.items():
        every = set(re.findall(r"^def (test_\w+)", (PROJECT / file).read_text(), re.MULTILINE))
        assert tests < every, file


def test_every_backend_has_guests_of_its_own() -> None:
    for name in backends.NAMES:
        assert [suite.backend for suite in maker(name).SUITES] == [name] * len(maker(name).SUITES)
        assert maker(name).SUITES and maker(name).TESTS
        assert set(maker(name).PROBES) <= set(probes.names())
    assert len({suite.label for suite in SUITES}) == len(SUITES)


def test_in_one_guest_are_all_backends() -> None:
    """The comparison of events is among the tests there (tests/backends/test_same_events.py)."""
    together = [suite for suite in SUITES if set(suite.backends) == set(backends.NAMES)]
    compared = [suite for suite in together if suite.in_tests and runs_comparison(suite)]
    assert compared
    assert all("core" in suite.backends for suite in SUITES if runs_comparison(suite))


def runs_comparison(suite: Suite) -> bool:
    return "tests/backends/test_same_events.py" in maker(suite.backend).TESTS


def test_kernels_are_chosen_by_series_or_suite() -> None:
    assert chosen([]) == list(SUITES)
    labels = ["5.10", "7.2", "5.10-bcc", "7.2-bcc", "5.10-stap", "7.2-stap"]
    assert [suite.label for suite in chosen(["sid", "5.10"])] == labels
    assert [str(suite) for suite in chosen(["6.1-bcc"])] == ["6.1-bcc-bookworm"]
    assert [suite.architecture for suite in chosen(["6.12-arm64"])] == ["arm64"]
    assert {suite.architecture for suite in chosen(["6.12"])} == {"amd64"}
    with pytest.raises(LabError, match=r"no kernel 4\.19"):
        chosen(["4.19"])


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    folder = tmp_path / "kernel" / "drivers"
    folder.mkdir(parents=True)
    plain = b"ELF\0license=GPL\0depends=virtio_ring\0"
    (folder / "virtio-blk.ko").write_bytes(plain)
    (folder / "virtio_ring.ko.xz").write_bytes(lzma.compress(b"ELF\0depends=\0"))
    kernel = Kernel("5.10.0-1-test", tmp_path, tmp_path, tmp_path)
    assert kernel.module("virtio_blk") == [
        ("virtio_ring", b"ELF\0depends=\0"),
        ("virtio_blk", plain),
    ]
    assert kernel.module("built_in") == []
