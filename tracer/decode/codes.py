# SPDX-License-Identifier: Apache-2.0
"""Exit codes and signals in sentences: the possible meanings of a number, and who writes it.

A shell, a runtime or Kubernetes may have written the number, each with codes of its own. The number
does not tell which, so the answer lists all meanings.
"""

from __future__ import annotations

import signal

from tracer.decode.exitcodes import describe_exit_code
from tracer.decode.kind import Answer
from tracer.decode.signals import SIGRTMAX, signal_name


def exit_code(code: int) -> Answer:
    """The meanings of any whole number: a byte, a negative code, a status of wait(2) or Windows."""
    if 0 <= code <= 255:
        return _byte(code)
    if code < 0:
        return _negative(code)
    if code < 1 << 16:
        return _wide(code)
    if code < 1 << 32:
        return _windows(code)
    if 1 << 63 <= code < 1 << 64:
        return _negative(code - (1 << 64), f"{code} is {code - (1 << 64)} in 64 bits; ")
    return [f"{code} is no exit code: those have 8 bits, on Windows 32"]


def _byte(code: int) -> Answer:
    number = code - 128
    if code not in _CONVENTIONS and 0 < number <= SIGRTMAX:
        name = signal_name(number)
        lines = [
            f"exit code {code} = 128 + {number}: killed by {name}, or exited by itself with the"
            f" code that a shell gives for a child killed by {name}",
            "the number alone does not tell the two apart, ktrace exits does",
        ]
        return lines + _WHO_SENDS.get(name, [])
    first = _CONVENTIONS.get(code) or describe_exit_code(code).partition(": ")[2]
    return [f"exit code {code}: {first}", *_ALSO.get(code, [])]


# timeout(1); pkg/kubelet/kuberuntime and containerd's CRI plugin (unknownExitCode) for 137 and 255
_CONVENTIONS = {
    124: "timeout(1) ended the command, because its time was up",
    125: "docker run or podman run failed itself, before the command; or timeout(1) itself failed",
    128: "invalid argument to exit; or the container could not be started at all",
}
_ALSO = {
    2: ["a Go program ends with 2 after a panic"],
    3: ["a JVM with -XX:+ExitOnOutOfMemoryError ends with 3"],
    126: ["Kubernetes: with the reason StartError or ContainerCannotRun, the entry point"],
    127: ["Kubernetes: with the reason StartError or ContainerCannotRun, the entry point"],
    128: [
        "Kubernetes shows 128 with the reason StartError (containerd) or ContainerCannotRun: the"
        " runtime failed, and no process of the container ran; the message beside it says why"
    ],
    255: [
        "Kubernetes: with the reason Unknown, containerd had lost the container, as after a restart"
        " of the node: nobody saw how it ended",
        "ssh, kubectl exec and others give 255 for a failure of their own",
    ],
}
_WHO_SENDS = {
    "SIGKILL": [
        "SIGKILL comes from the OOM killer (reason OOMKilled), from the runtime when a grace period"
        " is over or a probe has failed, or from anybody with the right: ktrace why POD",
        "Kubernetes writes 137 without having seen an end, too: reason ContainerStatusUnknown",
    ],
    "SIGTERM": ["SIGTERM is how a runtime asks a container to stop: a deletion, a failed probe"],
    "SIGABRT": ["SIGABRT is mostly the program's own: abort(), a failed assertion, a JVM's crash"],
    "SIGBUS": ["SIGBUS: a file that became shorter, no huge page left, or broken memory"],
    "SIGSYS": ["SIGSYS: a system call that a seccomp filter forbids"],
}


def _negative(code: int, prefix: str = "") -> Answer:
    if -(1 << 31) <= code < -(1 << 16):
        return _windows(code + (1 << 32))
    lines = [f"exit code {code}: {prefix}in 8 bits, as Linux keeps it, {code & 255}"]
    if 1 <= -code <= SIGRTMAX:
        lines.append(
            f"Python's subprocess counts so: killed by {signal_name(-code)} (signal {-code})"
        )
    if code == -1:
        lines.append(
            "Go's ExitCode() and others give -1 where there is no code: a signal ended the process,"
            " it has not ended yet, or nobody knows"
        )
    return lines


def _wide(code: int) -> Answer:
    """exit(code) keeps 8 bits; the status of wait(2) has the code in the upper bits."""
    last = code & 255
    lines = [
        f"exit code {code} does not exist on Linux: exit({code}) is seen as {last},"
        f" {_byte(last)[0].partition(': ')[2]}"
    ]
    if last == 0:
        upper = _byte(code >> 8)[0]
        lines.append(f"as the status of wait(2), {code} = {code >> 8} << 8 is {upper}")
    elif last & 0x7F <= SIGRTMAX and code >> 8 == 0:
        lines.append(f"as the status of wait(2): killed by {signal_name(last & 0x7F)}")
    return lines


def _windows(code: int) -> Answer:
    if code >= (1 << 32) - 256:
        signed = code - (1 << 32)
        return _negative(signed, f"{code} is {signed} in 32 bits; ")
    if code in _NTSTATUS:
        return [f"Windows: NTSTATUS {code:#010x}, {_NTSTATUS[code]}"]
    if code >> 16 == 0x8007:
        return [f"Windows: HRESULT {code:#010x}, the Win32 error {code & 0xFFFF}"]
    if code >> 30 == 3:
        return [f"Windows: NTSTATUS {code:#010x}, an error; no process of Linux ends so"]
    if code >> 30 == 2:
        return [f"Windows: {code:#010x}, an HRESULT or a warning; no process of Linux ends so"]
    return [f"exit code {code} does not exist on Linux: 8 bits are kept, {code & 255}"]


# [MS-ERREF] 2.3.1
_NTSTATUS = {
    0x40010004: "DBG_TERMINATE_PROCESS: a debugger or the system ended it",
    0x40010005: "DBG_CONTROL_C: Ctrl-C",
    0x80000003: "STATUS_BREAKPOINT: a breakpoint without a debugger, as a failed assertion",
    0x80000004: "STATUS_SINGLE_STEP: a step without a debugger",
    0xC0000001: "STATUS_UNSUCCESSFUL: failed",
    0xC0000005: "STATUS_ACCESS_VIOLATION: it touched memory that it must not; Linux: SIGSEGV",
    0xC0000006: "STATUS_IN_PAGE_ERROR: a page could not be read from its file",
    0xC0000008: "STATUS_INVALID_HANDLE: an invalid handle",
    0xC0000017: "STATUS_NO_MEMORY: no memory left for it",
    0xC000001D: "STATUS_ILLEGAL_INSTRUCTION: an instruction that the processor lacks",
    0xC0000022: "STATUS_ACCESS_DENIED: access denied",
    0xC0000025: "STATUS_NONCONTINUABLE_EXCEPTION: an exception after which nothing continues",
    0xC0000026: "STATUS_INVALID_DISPOSITION: a broken exception handler",
    0xC000007B: "STATUS_INVALID_IMAGE_FORMAT: a program or DLL for another machine",
    0xC000008C: "STATUS_ARRAY_BOUNDS_EXCEEDED: an index out of an array's bounds",
    0xC0000094: "STATUS_INTEGER_DIVIDE_BY_ZERO: a division by zero",
    0xC0000096: "STATUS_PRIVILEGED_INSTRUCTION: an instruction for the system only",
    0xC00000FD: "STATUS_STACK_OVERFLOW: the stack is used up",
    0xC000012D: "STATUS_COMMITMENT_LIMIT: the limit of committed memory is reached",
    0xC0000135: "STATUS_DLL_NOT_FOUND: a DLL is missing",
    0xC0000138: "STATUS_ORDINAL_NOT_FOUND: a DLL lacks a function, by number",
    0xC0000139: "STATUS_ENTRYPOINT_NOT_FOUND: a DLL lacks a function",
    0xC000013A: "STATUS_CONTROL_C_EXIT: Ctrl-C, or the container was told to stop",
    0xC0000142: "STATUS_DLL_INIT_FAILED: a DLL could not begin, as with no desktop heap left",
    0xC0000374: "STATUS_HEAP_CORRUPTION: the heap is corrupt",
    0xC0000409: "STATUS_STACK_BUFFER_OVERRUN: it ended itself at once (fail fast): a destroyed"
    " stack, abort()",
    0xC000041D: "STATUS_FATAL_USER_CALLBACK_EXCEPTION: an exception in a callback",
    0xC0000420: "STATUS_ASSERTION_FAILURE: an assertion failed",
    0xC0000428: "STATUS_INVALID_IMAGE_HASH: a signature does not fit",
    0xC0000602: "STATUS_FAIL_FAST_EXCEPTION: it ended itself at once (fail fast)",
    0xE0434352: "an exception of .NET that nobody caught",
    0xE06D7363: "an exception of C++ that nobody caught",
}


def is_of_windows(code: int) -> bool:
    """Whether the number is a Windows status, which no mask of GFP flags resembles."""
    return code in _NTSTATUS or 0xC0000000 <= code < 1 << 32


def of_signal(number: int) -> Answer:
    name = signal_name(number)
    words = signal.strsignal(number) or "a real-time signal"
    default = _default(name)
    if name in ("SIGKILL", "SIGSTOP"):
        lines = [f"signal {number}: {name}, {words.lower()}; {default}, no handler can prevent it"]
    else:
        lines = [f"signal {number}: {name}, {words.lower()}; without a handler {default}"]
    if default.startswith("ends"):
        lines.append(f"a container that it ended is shown with exit code {128 + number}")
        if name != "SIGKILL":
            lines.append(_INIT_IS_SPARED)
    return lines


_INIT_IS_SPARED = (
    "sent to the first process of a container, it is ignored unless that has a handler"
)

_DUMPS_CORE = {
    *("SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS"),
    *("SIGFPE", "SIGSEGV", "SIGXCPU", "SIGXFSZ", "SIGSYS"),
}


def _default(name: str) -> str:
    """signal(7)"""
    if name in ("SIGCHLD", "SIGURG", "SIGWINCH"):
        return "does nothing"
    if name == "SIGCONT":
        return "does nothing but continue a stopped process"
    if name in ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"):
        return "stops the process until SIGCONT"
    return "ends the process and dumps core" if name in _DUMPS_CORE else "ends the process"
