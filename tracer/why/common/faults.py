# SPDX-License-Identifier: Apache-2.0
"""The container's first process ended by a fault of its own: which signal, and why."""

from __future__ import annotations

from tracer.probes.signals import SignalBody, SystemCall
from tracer.why.entry import SIGKILL, Entry, target_state, took_effect
from tracer.why.story import Story

# Signals that the kernel raises for faults, and the signal of abort(3).
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ")
ABORT = "SIGABRT"
SECCOMP = "SYS_SECCOMP"
# Signals that dump core unless handled (signal(7)).
DUMP_CORE = (*FAULTS, ABORT, "SIGQUIT")
# How long a runtime that handles its own crash may take to write its report.
WRITING_NS = 30_000_000_000

# The meaning of signals that only the kernel sends, whatever their code.
_OF_KERNEL = {
    "SIGKILL": "which the kernel itself sent, as for a hard limit of processor time (RLIMIT_CPU)",
    "SIGXCPU": "it used more processor time than its limit RLIMIT_CPU allows",
    "SIGXFSZ": "it wrote a file larger than its limit RLIMIT_FSIZE allows",
    "SIGALRM": "a timer ran out that it had set itself (alarm, setitimer)",
    "SIGVTALRM": "a timer ran out that it had set itself (setitimer)",
    "SIGPROF": "a timer ran out that it had set itself (setitimer)",
    "SIGPIPE": "it wrote into a pipe or connection that nobody reads from any more",
    "SIGHUP": "its terminal was closed",
    "SIGINT": "as of a terminal's Ctrl-C",
    "SIGQUIT": "as of a terminal's Ctrl-\\",
    "SIGTRAP": "it ran into a breakpoint: a debugger's, or one by which a program gives up",
}

CODES = {
    "SEGV_MAPERR": "it touched an address where nothing is",
    "SEGV_ACCERR": "it touched memory in a way that is forbidden there",
    "BUS_ADRERR": "it touched a mapped file behind its end, a full tmpfs,"
    " or hugepages of which none was left",
    "BUS_ADRALN": "it touched an unaligned address",
    "BUS_MCEERR_AR": "the memory itself is broken",
    "FPE_INTDIV": "it divided an integer by zero",
    "FPE_INTOVF": "an integer overflowed",
    "ILL_ILLOPN": "an instruction that this processor does not know",
    "SI_KERNEL": "the processor refused an instruction or address",
}
_REFUSED = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")


def abort_calls(story: Story) -> list[Entry[SignalBody]]:
    """SIGABRT that the first process sent to itself. PID 1 ignores it, so abort(3) ends it with an
    instruction that the processor refuses."""
    return [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] == ABORT and story.is_init(entry.event.by)
    ]


def kernel_fault_before(story: Story, moment: Entry[SignalBody]) -> Entry[SignalBody] | None:
    """The last fault that reached the first process just before it gave up. Of like faults the last
    counts, because some runtimes handle such signals routinely."""
    found = [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] in FAULTS
        and took_effect(entry)
        and 0 <= moment.boot_ns - entry.last_ns <= WRITING_NS
    ]
    return max(found, key=lambda entry: entry.last_ns, default=None)


def reason(fault: Entry[SignalBody]) -> str:
    """`, it touched an address where nothing is`; only for signals of the kernel or of the process
    itself."""
    return f", {meaning(fault)}" if fault.body["origin"] == "kernel" or is_own(fault) else ""


def handled_before(story: Story, fault: Entry[SignalBody]) -> Entry[SignalBody] | None:
    """The kernel's signal that the process had handled before it sent itself the same one, as a
    handler that reports crashes does (faulthandler, redis)."""
    if not is_own(fault):
        return None
    found = [
        entry
        for entry in story.signals(fault.event.about)
        if entry.body["origin"] == "kernel"
        and entry.body["signal"]["number"] == fault.body["signal"]["number"]
        and took_effect(entry)
        and 0 <= fault.boot_ns - entry.last_ns <= WRITING_NS
    ]
    return max(found, key=lambda entry: entry.last_ns, default=None)


def in_full(story: Story, fault: Entry[SignalBody]) -> str:
    """`meaning`, with that of the signal handled before."""
    first = handled_before(story, fault)
    after = f" when it had handled the kernel's: {meaning(first)}" if first else ""
    return f"{meaning(fault)}{after}"


def is_own(fault: Entry[SignalBody]) -> bool:
    """Whether a process sent the signal to itself."""
    sender, about = fault.event.by, fault.event.about
    return sender is not None and about is not None and sender.pid == about.pid


def meaning(fault: Entry[SignalBody]) -> str:
    """What the kernel means by the signal, as far as its code says; or that the process sent it to
    itself."""
    signal, call = fault.body["signal"], fault.body.get("call")
    if is_own(fault):
        return "it called abort()" if signal["name"] == ABORT else "which it sent to itself"
    if signal["code"] == SECCOMP:
        return f"it made {forbidden_call(call)}, which its seccomp profile forbids"
    if signal["name"] in _OF_KERNEL:
        return _OF_KERNEL[signal["name"]]
    if signal["code"] == "SI_KERNEL" and signal["name"] not in _REFUSED:
        return "which the kernel sent"
    return CODES.get(signal["code"], str(signal["code"]))


def forbidden_call(call: SystemCall | None) -> str:
    """`the system call getppid (110 on x86_64)`."""
    if call is None:
        return "a system call"
    machine = f" on {call['machine']}" if call["machine"] else ""
    if call["name"] is None:
        return f"system call {call['number']}{machine}"
    return f"the system call {call['name']} ({call['number']}{machine})"


def dump_cut_off(story: Story) -> tuple[Entry[SignalBody], Entry[SignalBody]] | None:
    """The fault by which the first process was dying, and the signal that arrived while it wrote
    its core dump. Only SIGKILL ends such a process."""
    ended_by = story.end.body["signal"] if story.end else None
    if ended_by is None or ended_by["number"] != SIGKILL:
        return None
    seen = [entry for entry in story.signals() if target_state(entry.event) == "dumping_core"]
    if not seen:
        return None
    faults = [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] in DUMP_CORE
        and took_effect(entry)
        and target_state(entry.event) in ("running", "stopped")
        and entry.last_ns <= seen[0].boot_ns
    ]
    if not faults:
        return None
    return max(faults, key=lambda entry: entry.last_ns), seen[0]


def own_fault(story: Story, names: tuple[str, ...]) -> Entry[SignalBody] | None:
    """The signal that ended the first process, if the kernel or the process itself raised it."""
    blow = story.blow()
    if blow is None or blow.body["signal"]["name"] not in names:
        return None
    by_itself = story.is_init(blow.event.by)
    return blow if by_itself or blow.body["origin"] == "kernel" else None
