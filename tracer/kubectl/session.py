# SPDX-License-Identifier: Apache-2.0
"""Runs a request with ktrace on the nodes and shows the results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeVar

from tracer.kubectl import nodes, show
from tracer.kubectl.arguments import IN_PODS, Request
from tracer.kubectl.client import Kubectl, refusal
from tracer.kubectl.home import CONTAINER, DELETE_SECONDS, Agents, Home, Homes
from tracer.kubectl.nodes import Asked
from tracer.kubectl.stream import ENDING, End, Sink, Streams, on_end
from tracer.model.errors import KtraceError, NoSuchPod, UsageError
from tracer.model.interrupts import ignore
from tracer.outputs.escape import escape

T = TypeVar("T")

# Nodes on which a pod is looked for or made concurrently.
AT_ONCE = 16
_FILES_THERE = ("--record", "--flight", "--rotate", "--trigger")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Interrupted(Exception):
    """A signal came before there was anything to end in order."""


def run(request: Request) -> int:
    """Returns ktrace's exit code."""
    _check(request)
    kubectl = Kubectl(request.kubectl)
    try:
        return _run(kubectl, request)
    finally:
        kubectl.abandon()


def _run(kubectl: Kubectl, request: Request) -> int:
    ahead = None if request.image else Agents(kubectl, request)
    asked = _asked(kubectl, request)
    if request.command == "live":
        return _screen(kubectl, request, asked, ahead)
    with housed(kubectl, request, asked.nodes, ahead) as homes:
        asked = replace(asked, nodes=tuple(home.node for home in homes))
        sink = _sink(request, asked)
        words = remote_words(request, asked)
        ready = _is_tracing(request.command)
        ends = [End(kubectl, home, words, ready) for home in homes]
        code = Streams(ends, sink, teller(asked), lambda: _attached(request, asked)).run()
        if isinstance(sink, show.Recordings):
            code = check_recordings(sink.paths.values()) or code
    return code


def _asked(kubectl: Kubectl, request: Request) -> Asked:
    """An agent remembers a pod that is gone."""
    try:
        return nodes.find(kubectl, request)
    except NoSuchPod as nobody:
        if request.command != "why":
            raise
        from tracer.kubectl.agents import who_knows

        with interruptible():
            return who_knows(kubectl, request, nobody)


@contextmanager
def housed(
    kubectl: Kubectl, request: Request, names: Sequence[str], ahead: Agents | None
) -> Iterator[list[Home]]:
    """Yields ktrace's pods, one on each node. Nodes where it cannot run are reported; if there is
    no other, their error is raised. Pods that were made are deleted at the end."""
    homes = Homes(kubectl, request, tell, _seconds(request.duration), ahead)
    with interruptible():
        try:
            found, problems = in_parallel(names, lambda node: _home(kubectl, homes, node))
            if not found:
                raise next(iter(problems.values()))
            for node, problem in problems.items():
                tell(f"without node {node}: {problem.message}")
            yield [found[node] for node in names if node in found]
        finally:
            take_away(homes)


def in_parallel(
    names: Sequence[str], ask: Callable[[str], T]
) -> tuple[dict[str, T], dict[str, KtraceError]]:
    """The results and the errors, each by name."""
    found: dict[str, T] = {}
    problems: dict[str, KtraceError] = {}
    left = list(names)
    failures: list[BaseException] = []

    def work() -> None:
        while left and not failures:
            with suppress(IndexError):
                name = left.pop(0)
                try:
                    found[name] = ask(name)
                except KtraceError as error:
                    problems[name] = error
                except BaseException as error:
                    failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in names[:AT_ONCE]]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
    if failures:
        raise failures[0]
    return found, problems


def remote_words(request: Request, asked: Asked) -> list[str]:
    """ktrace's words on a node."""
    assert request.command
    words = [request.command, *request.rest]
    pods = list(asked.pods)
    if request.target is not None:
        words.append(pods.pop(0) if request.command == "why" else request.target)
    words += [f"--pod={pod}" for pod in pods]
    words += [f"--namespace={namespace}" for namespace in asked.namespaces]
    words += [f"--selector={labels}" for labels in request.labels]
    output = request.output
    if is_table(request):
        output = "rows-wide" if output == "wide" else "rows"
    elif request.command == "record":
        output = "-"
    elif request.command == "why" and output != "json":
        words.append(f"--color={'always' if show.in_colour(request.color) else 'never'}")
    if output is not None:
        words.append(f"--output={output}")
    if request.duration is not None:
        words.append(f"--duration={request.duration}")
    if request.count is not None:
        words.append(f"--count={request.count}")
    if not request.headers and not is_table(request):
        words.append("--no-headers")
    if asked.to_come and _is_tracing(request.command):
        words.append("--wait")
    return words


def is_table(request: Request) -> bool:
    """Whether the output is a table of events, which is drawn here."""
    from tracer import probes

    events = request.command == "trace" or request.command in probes.names()
    return events and request.output in (None, "table", "wide")


def tell(words: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"ktrace: {escape(' '.join(words.split()))}\n")
        sys.stderr.flush()


def _check(request: Request) -> None:
    """Checks what needs no cluster."""
    _check_command(request)
    for word in request.rest:
        if word.startswith(_FILES_THERE):
            raise UsageError(
                f"{word.partition('=')[0]} would write files in a pod",
                "kubectl ktrace record -o FILE brings a recording here; the flight recorder is the"
                " DaemonSet's: docs/in-a-pod.md",
            )
    if request.command == "record" and not request.output:
        raise UsageError("record needs a file", "kubectl ktrace record -o here.ktrace")
    if request.labels:
        from tracer.model.selection import parse_labels

        parse_labels(request.labels)
    if request.count is not None and not request.count.isdigit():
        raise UsageError(f"--count {request.count} is no number")


def _check_command(request: Request) -> None:
    """Fails early: otherwise a pod would be made only to report an unknown command."""
    from tracer import probes

    place = find_spec("tracer.cli")  # not imported: that takes long
    modules = iter_modules(place.submodule_search_locations if place else ())
    known = [*probes.names(), *(one.name for one in modules if not one.name.startswith("_"))]
    if request.command not in known:
        near = get_close_matches(request.command or "", known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"No such command {request.command!r}.{hint}", "kubectl ktrace --help")
    if request.command in IN_PODS:
        raise UsageError(
            f"{request.command} is a command of ktrace's own pods",
            "kubectl ktrace history asks the agents; how to install them: docs/in-a-pod.md",
        )
    about = request.target or request.pods or request.labels or set(request.namespaces) - {"*"}
    if request.command == "why" and not about:
        raise UsageError("which pod?", "kubectl ktrace why NAMESPACE/POD, deploy/NAME or -l KEY=V")
    if request.command == "trace" and not request.target:
        raise UsageError("which probes?", f"kubectl ktrace trace {','.join(probes.names())}")


def _home(kubectl: Kubectl, homes: Homes, node: str) -> Home:
    """The node's pod. Node problems are looked up meanwhile, and ignored if ktrace already runs
    there: then nobody waits for them."""
    if agent := homes.known(node):
        return agent
    problems: list[BaseException] = []

    def check() -> None:
        try:
            nodes.check(kubectl, node)
        except BaseException as error:
            problems.append(error)

    checking = threading.Thread(target=check, daemon=True)
    checking.start()
    if agent := homes.agent(node):
        return agent
    checking.join()
    for problem in problems:
        raise problem
    return homes.make(node)


def _sink(request: Request, asked: Asked) -> Sink:
    several = len(asked.nodes) > 1
    count = int(request.count) if request.count and several else None
    if request.command == "record":
        assert request.output
        return show.Recordings(asked.nodes, Path(request.output))
    if is_table(request):
        return show.Drawn(
            asked.nodes,
            count,
            wide=request.output == "wide",
            colour=show.in_colour(request.color),
            headers=request.headers,
        )
    if request.output == "json":
        return show.JsonLines(asked.nodes, count)
    verdicts = request.command == "why"
    return show.Text(asked.nodes, named=several and not verdicts, verdicts=verdicts)


def teller(asked: Asked) -> Callable[[str, str], None]:
    """With several nodes, each line begins with its node."""

    def say(node: str, line: str) -> None:
        with suppress(OSError):
            sys.stderr.write(f"{node}: {line}\n" if asked.several else f"{line}\n")
            sys.stderr.flush()

    return say


def _attached(request: Request, asked: Asked) -> None:
    if sys.stderr.isatty():
        tell(f"{request.command} on {', '.join(asked.nodes)}; Ctrl-C ends")
    if request.ready_file:
        from tracer.recording.files import create_private

        try:
            os.close(create_private(Path(request.ready_file)))
        except OSError as error:
            raise UsageError(f"--ready-file {request.ready_file}: {error.strerror}") from error


def check_recordings(paths: Iterable[Path]) -> int:
    """Reports whether each recording arrived completely."""
    from tracer.model.errors import BadRecording
    from tracer.recording.reader import Reader

    code = 0
    for path in paths:
        try:
            with Reader(path) as reader:
                for _ in reader.blocks():
                    pass
                whole = reader.ended
        except BadRecording:
            whole = False
        if whole:
            tell(f"{path}: {path.stat().st_size} bytes")
        else:
            tell(f"{path}: its end has not arrived; ktrace shows what has")
            code = 1
    return code


def _screen(kubectl: Kubectl, request: Request, asked: Asked, ahead: Agents | None) -> int:
    """ktrace controls the terminal there: kubectl forwards keys and the window size."""
    if asked.several:
        raise UsageError(
            f"live shows one node, and this is on {len(asked.nodes)}", "--node NAME chooses one"
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the live view needs a terminal", "without one: kubectl ktrace trace … -o json"
        )
    import termios

    time_zone = _take_zone(request)
    before = termios.tcgetattr(0)
    with housed(kubectl, request, asked.nodes, ahead) as (home,):
        process = subprocess.Popen(
            kubectl.command(
                *("exec", "--stdin", "--tty", f"--namespace={home.namespace}", home.pod),
                *(f"--container={CONTAINER}", "--", "ktrace", "leash", f"--time-zone={time_zone}"),
                *remote_words(request, asked),
            )
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    return code if code >= 0 else 1


def _take_zone(request: Request) -> str:
    """The time zone to show times in. Its name is understood here, where the zones are."""
    from tracer.kubectl import zone

    option = "--time-zone="
    names = [word.removeprefix(option) for word in request.rest if word.startswith(option)]
    request.rest = [word for word in request.rest if not word.startswith(option)]
    found = zone.rule(names[-1] if names else None)
    if found is None:
        raise UsageError(
            f"there is no time zone {names[-1]!r}", "give UTC, or a name such as Europe/Berlin"
        )
    return found


def take_away(homes: Homes) -> None:
    """Deletes the pods that were made. A signal does not cancel the deletion, only the wait for
    it."""
    ignore(*ENDING)
    deleting = homes.close()
    on_end(lambda number, frame: os._exit(128 + number))
    deadline = time.monotonic() + DELETE_SECONDS
    for process, what in deleting:
        try:
            _, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            problem = refusal("delete", err).message if process.returncode else None
        except subprocess.TimeoutExpired:
            problem = "the API server does not answer"
        if problem:
            tell(f"{what} could not be deleted, and ends by itself: {problem}")


@contextmanager
def interruptible() -> Iterator[None]:
    """A signal ends the block at any point. Further ones are ignored on its way out, so that it
    takes away what it has made."""

    def on_signal(number: int, _frame: object) -> None:
        ignore(*ENDING)
        raise Interrupted

    before = {one: signal.getsignal(one) for one in ENDING}
    on_end(on_signal)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _is_tracing(command: str | None) -> bool:
    from tracer import probes

    return command in ("trace", "why", "record", "live") or command in probes.names()


def _seconds(duration: str | None) -> float | None:
    """A duration in seconds. ktrace itself checks it; here it only sets the pod's deadline."""
    import re

    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", duration or "")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts) if parts else None
