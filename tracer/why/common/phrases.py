# SPDX-License-Identifier: Apache-2.0
"""How verdicts describe processes, places and limits."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.decode.exitcodes import describe_exit_code
from tracer.model.address import with_port
from tracer.model.event import Process
from tracer.model.units import size
from tracer.probes.columns import pod_name, process_name
from tracer.probes.exits import ExitBody
from tracer.probes.oom.decoder import KillBody, limit_owner
from tracer.probes.resets import End
from tracer.probes.signals import SignalBody
from tracer.why.entry import MAX_FOLDED, Entry

MAX_NAMES = 3


def who(process: Process | None) -> str:
    if process is None:
        return "a process that is not known"
    name = process_name(process) or "?"
    return f"{name} ({process.exe})" if process.exe else name


def where(entry: Entry[SignalBody]) -> str:
    """Where the sender of a signal runs."""
    origin = entry.body["origin"]
    return {
        "same-container": "in the same container",
        "same-pod": f"in the same pod, container {_container(entry)}",
        "other-pod": f"in {_other_pod(entry)}",
        "host": "on the host",
        "runtime": "of the container runtime",
        "kubelet": "of Kubernetes on this node",
        "kernel": "in the kernel",
    }.get(origin or "", "at a place that is not known")


def _container(entry: Entry[SignalBody]) -> str:
    place = entry.event.by_place
    container = place.container if place else None
    return (container.name or container.id[:12]) if container else "unknown"


def _other_pod(entry: Entry[SignalBody]) -> str:
    pod = pod_name(entry.event.by_place)
    return f"pod {pod}" if pod else "a container of no pod"


def descent(process: Process | None) -> str:
    """`, started by bash[12] ← sshd[7]`, nearest first. PID 1 is left out: it is everyone's
    ancestor."""
    ancestors = [(pid, comm) for pid, comm in process.ancestry if pid != 1] if process else []
    if not ancestors:
        return ""
    return ", started by " + " ← ".join(f"{comm}[{pid}]" for pid, comm in ancestors[:3])


def whose_limit(body: KillBody) -> str:
    """For an `oom` event: `the container's memory limit of 32 MiB`."""
    limit = size(body["limit_bytes"])
    amount = f" of {limit}" if limit else ""
    owner = {"container": "the container's", "pod": "the pod's"}.get(limit_owner(body) or "")
    if body["scope"] == "system":
        return "the node's memory"
    if owner:
        return f"{owner} memory limit{amount}"
    if body["cgroup_path"]:
        return f"the memory limit{amount} of cgroup {body['cgroup_path']}"
    if body["scope"] == "cgroup":
        return "the memory limit of a cgroup that is not known"
    return "a memory limit, or the node's memory: which is not known,"


_SHELLS = frozenset(
    ("sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "yash", "zsh")
)
# Programs that execute others and report with 126 and 127 that they could not.
_EXECUTE_OTHERS = {
    *_SHELLS,
    *("catatonit", "chroot", "coreutils", "dumb-init", "env", "gosu", "nice", "nohup", "setpriv"),
    *("setsid", "stdbuf", "su", "su-exec", "sudo", "tini", "tini-static", "timeout", "toybox"),
    "xargs",
}
_LACKS_SOMETHING = (
    ", which a program's loader gives for a library that is missing, and others for a command that"
    " is; this one did run"
)


def executes_others(process: Process | None) -> bool:
    """Whether its exit code may be about another program. True for shells and the like, and for
    their children that never executed anything and whose file is therefore not known."""
    return process is None or _name(process) in _EXECUTE_OTHERS


def is_shell(process: Process | None) -> bool:
    return process is not None and _name(process) in _SHELLS


def _name(process: Process) -> str:
    return process.exe.rpartition("/")[2] if process.exe else process.comm or ""


def code_words(code: int, process: Process | None = None) -> str:
    """`, success`; empty if the code has a meaning only to its program, or comes from another
    program that a shell ran."""
    if code in (126, 127) and not executes_others(process):
        return _LACKS_SOMETHING if code == 127 else ""
    if code == 2 and process is not None and not is_shell(process):
        return ""
    if code == 255:
        return ", the same as exit(-1)"
    words = describe_exit_code(code).partition(": ")[2]
    if words == "the program's own code":
        return ""
    if code > 128 and words.startswith("exited by itself with "):
        return f", {words.removeprefix('exited by itself with ')}, but no signal ended it"
    return f", {words}"


def ending(body: ExitBody, *, explained: bool = True) -> str:
    """The end in an `exit` event; the code has no words if something else explains it."""
    if body["exit_code"] is not None:
        words = code_words(body["exit_code"], body["process"]) if explained else ""
        return f"exit code {body['exit_code']}{words}"
    name = body["signal"]["name"] if body["signal"] else "a signal"
    return f"{name}{' with a core dump' if body['core_dumped'] else ''}"


def shortened(names: Iterable[str], of: Iterable[Entry] = ()) -> str:
    """Up to three names: `a, b, c and others (56 in all)`. Entries that may be folded know how many
    there are."""
    every = list(names)
    services = [one for entry in of if (one := entry.services)]
    count = max(len(every), len(set().union(*services)))
    if count <= MAX_NAMES:
        return ", ".join(every)
    more = "more than " * any(len(one) >= MAX_FOLDED for one in services)
    return f"{', '.join(every[:MAX_NAMES])} and others ({more}{count} in all)"


def times(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def address(end: End | None) -> str:
    return written(end["address"], end["port"]) if end else written(None, None)


def written(address: str | None, port: int | None) -> str:
    if address is None:
        return "an address that is not known"
    return with_port(address, port)
