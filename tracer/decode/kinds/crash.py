# SPDX-License-Identifier: Apache-2.0
"""A program's fault in the words of each architecture: x86, arm64, arm, riscv, powerpc, s390,
mips."""

from __future__ import annotations

import re

from tracer.decode.faults import parse
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line, name_before
from tracer.decode.signals import SIGRTMAX, signal_name

# Follows the process's name at the beginning of the line.
_PID = r"\[(?P<pid>\d{1,10})\]:? "
_IN = r"(?:,? in (?P<module>[^\n\[]{1,255})\[[0-9a-f,]{1,33}\+[0-9a-f]{1,16}\])?"
_HEX = r"(?:0x)?[0-9a-fA-F]{1,16}"

# arch/arm64/mm/fault.c: before and since 4.18 (42dbf54e8890)
_ARM64 = re.compile(
    rf"{_PID}unhandled (?P<what>[a-z0-9 ]{{3,60}}?) \((?P<signal>\d{{1,2}})\) at (?P<at>{_HEX}),"
    rf" (?:esr|ESR|code) (?P<esr>{_HEX}){_IN}"
)
_ARM64_EXCEPTION = re.compile(
    rf"{_PID}unhandled exception: (?P<class>[^\n,]{{1,60}}), ESR (?P<esr>{_HEX})"
    rf"(?:, (?P<what>[^\n\[]{{1,80}}?))?{_IN}\s*\Z"
)
_UNDEFINED = re.compile(rf"{_PID}undefined instruction: pc={_HEX}")
_ARM = re.compile(
    rf"unhandled page fault \((?P<signal>\d{{1,2}})\) at"
    rf" (?P<at>{_HEX}), code (?P<esr>{_HEX})"
)
# arch/{riscv,powerpc,s390}
_RISCV = re.compile(
    rf"{_PID}unhandled signal (?P<signal>\d{{1,2}})(?: code 0x[0-9a-f]{{1,8}})?"
    rf" at (?P<at>{_HEX}){_IN}"
)
_POWERPC = re.compile(
    rf"{_PID}(?P<what>[a-z ]{{3,40}}) \((?P<signal>\d{{1,2}})\) at (?P<at>{_HEX}) nip"
    rf" [0-9a-f]{{1,16}} lr [0-9a-f]{{1,16}} code [0-9a-f]{{1,8}}{_IN}"
)
_S390 = re.compile(
    rf"User process fault: interruption code (?P<code>[0-9a-fA-FX]{{1,10}})[^\n]{{0,20}}?{_IN}\s*\Z"
)
_MIPS = re.compile(
    r"do_page_fault\(\): sending (?P<name>SIG[A-Z]{2,6}) to (?P<comm>[^\n]{1,64}) for invalid"
    rf" (?P<access>\w{{1,10}}) access (?:from|to)\s{{0,4}}(?P<at>{_HEX})"
)
# kernel/signal.c with print-fatal-signals
_FATAL = re.compile(r"potentially unexpected fatal signal (?P<n>\d{1,2})")
# systemd-coredump(8)
_DUMPED = re.compile(
    r"(?:\A|systemd-coredump(?:\[\d{1,10}\])?: )Process (?P<pid>\d{1,10})"
    r" \((?P<comm>[^\n]{1,64}?)\) of user \d{1,10} dumped core"
)
_OTHER_TRAPS = re.compile(
    rf"{_PID}(?P<what>bad frame in \w{{1,32}}|vsyscall [^\n]{{3,60}}?|control protection)"
    r" (?:frame|ip):[0-9a-f]{1,16}"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text.removeprefix("traps: ")
    return _x86(text) or _arm64(text) or _others(text)


def _x86(text: str) -> Answer | None:
    fault = parse(text)
    if fault is None:
        found = _OTHER_TRAPS.search(text)
        if not found:
            return None
        return _told(name_before(text, found.start()), found["pid"], found["what"])
    # `parse` takes no more characters than a process's name can have. A thread's name may be longer
    # in a text; it begins where the line does.
    at = text.find(f"[{fault.tid}]")
    comm = name_before(text, at) if at > 0 else fault.comm
    lines = _told(comm, str(fault.tid), fault.what)
    if fault.access:
        lines.append(f"  it {fault.access}")
    if fault.module:
        of = "of the file" if fault.in_file else "behind the beginning of its mapping"
        where = f", offset {fault.offset:#x} {of}" if fault.offset is not None else ""
        lines.append(f"  in {fault.module}{where}")
    return lines


def _told(comm: str, pid: str | None, what: str) -> Answer:
    who = f"{comm}, pid {pid}" if pid else comm
    return [f"{who}, crashed by its own fault: {what}"]


def _arm64(text: str) -> Answer | None:
    found = _ARM64_EXCEPTION.search(text)
    if found:
        esr = int(found["esr"], 16)
        what = found["what"] or found["class"].strip()
        return [
            *_told(name_before(text, found.start()), found["pid"], f"{what}{_signal_words(esr)}"),
            *_access(esr, None),
            *_where(found),
        ]
    found = _ARM64.search(text)
    if found:
        esr = int(found["esr"], 16)
        what = f"{found['what']}, {_name(found['signal'])}"
        return [
            *_told(name_before(text, found.start()), found["pid"], what),
            *_access(esr, int(found["at"], 16)),
            *_where(found),
        ]
    found = _UNDEFINED.search(text)
    if found:
        who = name_before(text, found.start())
        return _told(who, found["pid"], "undefined instruction, SIGILL")
    return None


def _others(text: str) -> Answer | None:
    for pattern in (_RISCV, _POWERPC):
        if found := pattern.search(text):
            what = found.groupdict().get("what") or "fault"
            who = name_before(text, found.start())
            lines = _told(who, found["pid"], f"{what}, {_name(found['signal'])}")
            return [*lines, f"  at the address {int(found['at'], 16):#x}", *_where(found)]
    if found := _ARM.search(text):
        who = name_before(text, found.start())
        lines = _told(who, None, f"page fault, {_name(found['signal'])}")
        return [*lines, f"  at the address {int(found['at'], 16):#x}"]
    if found := _MIPS.search(text):
        lines = _told(found["comm"], None, f"invalid {found['access']} access, {found['name']}")
        return [*lines, f"  at the address {int(found['at'], 16):#x}"]
    if found := _S390.search(text):
        return [
            f"a program crashed by its own fault: interruption code {found['code']}",
            *_where(found),
        ]
    if found := _DUMPED.search(text):
        return [
            f"{found['comm']}, pid {found['pid']}, ended by a signal that dumps core; which, and"
            f" where in the program: coredumpctl info {found['pid']}"
        ]
    if found := _FATAL.search(text):
        number = int(found["n"])
        who = name_before(text, found.start())
        return [
            f"{who} ends by signal {number}, {_name(found['n'])}; the kernel logs it because"
            " kernel.print-fatal-signals is on"
        ]
    return None


def _name(signal: str) -> str:
    number = int(signal)
    return signal_name(number) if 1 <= number <= SIGRTMAX else f"signal {number}"


# Arm ARM, ESR_ELx: the exception class; for data aborts, bit 6 marks a write.
_DATA_ABORT, _INSTRUCTION_ABORT = (0x24, 0x25), (0x20, 0x21)
_CLASSES = {0x00: "SIGILL", 0x0E: "SIGILL", 0x22: "SIGBUS", 0x26: "SIGBUS", 0x3C: "SIGTRAP"}


def _signal_words(esr: int) -> str:
    name = _CLASSES.get(esr >> 26 & 0x3F)
    return f", {name}" if name else ""


def _access(esr: int, at: int | None) -> Answer:
    exception = esr >> 26 & 0x3F
    if exception in _DATA_ABORT:
        verb = "wrote to" if esr & 1 << 6 else "read"
    elif exception in _INSTRUCTION_ABORT:
        verb = "executed"
    else:
        return [f"  at the address {at:#x}"] if at is not None else []
    kind = esr & 0x3C
    where = "the unmapped" if kind == 0x04 else "the forbidden" if kind == 0x0C else "a bad"
    return [f"  it {verb} {where} address" + (f" {at:#x}" if at is not None else "")]


def _where(found: re.Match[str]) -> Answer:
    return [f"  in {found['module']}"] if found["module"] else []


KIND = Kind(
    _read,
    marks=(
        *("segfault", " trap ", "general protection", "unhandled ", "undefined instruction"),
        *("fatal signal", "User process fault", "do_page_fault", "bad frame in", "vsyscall "),
        *("control protection", " lr ", " dumped core"),
    ),
    rank=32,
)
