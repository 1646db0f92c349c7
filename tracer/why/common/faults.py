# SPDX-License-Identifier: Apache-2.0
"""The container's first process ended by a fault of its own: which signal, and why."""

from __future__ import annotations

from tracer.probes.signals import SignalBody, SystemCall
from tracer.why.entry import SIGKILL, Entry, target_state, took_effect
from tracer.why.story import Story

# What the kernel raises for a fault, and what abort(3) raises.
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ")
ABORT = "SIGABRT"
SECCOMP = "SYS_SECCOMP"
# What makes a process write a core dump if it has no handler (signal(7)).
DUMP_CORE = (*FAULTS, ABORT, "SIGQUIT")
# What a runtime that handles its own crash may take to write down where that was.
WRITING_NS = 30_000_000_000

# What the kernel alone sends for, whatever its code is.
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
    """SIGABRT of the first process to itself. As PID 1 it ignores that, and abort(3) ends it with
    an instruction that the processor refuses."""
    return [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] == ABORT and story.is_init(entry.event.by)
    ]


def kernel_fault_before(story: Story, moment: Entry[SignalBody]) -> Entry[SignalBody] | None:
    """The last fault that reached the first process just before it gave up. Of alike faults the
    last one: some runtimes handle such signals as routine."""
    found = [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] in FAULTS
        and took_effect(entry)
        and 0 <= moment.boot_ns - entry.last.boot_ns <= WRITING_NS
    ]
    return max(found, key=lambda entry: entry.last.boot_ns, default=None)


def reason(fault: Entry[SignalBody]) -> str:
    """`, it touched an address where nothing is`, of a signal of the kernel's or its own."""
    return f", {meaning(fault)}" if fault.body["origin"] == "kernel" or is_own(fault) else ""


def is_own(fault: Entry[SignalBody]) -> bool:
    """Whether a process sent the signal to itself."""
    sender, about = fault.event.by, fault.event.about
    return sender is not None and about is not None and sender.pid == about.pid


def meaning(fault: Entry[SignalBody]) -> str:
    """What the kernel means by it, as far as its code says that; or that it is its own."""
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
    """The fault by which the first process was dying, and the signal that found it still writing
    its core dump. What ends such a process then is SIGKILL alone."""
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
        and entry.last.boot_ns <= seen[0].boot_ns
    ]
    if not faults:
        return None
    return max(faults, key=lambda entry: entry.last.boot_ns), seen[0]


def own_fault(story: Story, names: tuple[str, ...]) -> Entry[SignalBody] | None:
    """The signal, raised by the kernel or by the process itself, that ended the first process."""
    blow = story.blow()
    if blow is None or blow.body["signal"]["name"] not in names:
        return None
    by_itself = story.is_init(blow.event.by)
    return blow if by_itself or blow.body["origin"] == "kernel" else None
