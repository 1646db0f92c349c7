# SPDX-License-Identifier: Apache-2.0
"""Audit records of a process that a rule or its own fault stopped: seccomp, AppArmor, SELinux, an
end by a signal. In the kernel log they begin with `audit:`, in auditd's log with `type=`."""

from __future__ import annotations

import re

from tracer.decode import syscalls
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.decode.signals import SIGRTMAX, signal_name

_TYPE = re.compile(r"\btype=(?P<type>\d{4}|[A-Z_]{3,24})\b")
_FIELD = re.compile(
    r'\b(?P<key>[a-z_]{2,20})=(?:"(?P<quoted>[^"\n]{0,4096})"|(?P<plain>[^\s"]{1,4096}))'
)
_AVC = re.compile(r"avc: +(?P<verdict>denied|granted) +\{(?P<what>[^}\n]{1,200})\} for ")

# include/uapi/linux/seccomp.h: the action in the upper half, its data in the lower
_ACTIONS = {
    0x80000000: "its process was killed",
    0x00000000: "its thread was killed",
    0x00030000: "it got SIGSYS",
    0x00050000: "the call failed with an error",
    0x7FC00000: "a supervisor was asked",
    0x7FF00000: "a tracer was asked",
    0x7FFC0000: "it was logged only",
    0x7FFF0000: "it was allowed",
}

# The words of ausearch --interpret, lib/seccomp_tab of auditd
_NAMED_ACTIONS = {
    "kill": 0x00000000,
    "trap": 0x00030000,
    "errno": 0x00050000,
    "trace": 0x7FF00000,
    "log": 0x7FFC0000,
    "allow": 0x7FFF0000,
}
_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text[:8192]
    kind = _TYPE.search(text)
    fields = {m["key"]: _value(m) for m in _FIELD.finditer(text)}
    avc = _AVC.search(text)
    if avc:
        return _selinux(avc, fields)
    if kind and kind["type"] in ("1326", "SECCOMP"):
        return _seccomp(fields)
    if kind and kind["type"] in ("1701", "ANOM_ABEND"):
        return [f"{_who(fields)} ended by {_signal(fields)}, which it caused or sent to itself"]
    if fields.get("apparmor") in ("DENIED", "ALLOWED"):
        return _apparmor(fields)
    return None


def _seccomp(fields: dict[str, str]) -> Answer | None:
    asked = fields.get("syscall", "")
    number = _whole(asked, 10)
    if number is None and not _NAME.fullmatch(asked):
        return None
    machine = _machine(fields.get("arch", ""))
    call = asked
    if number is not None:
        name = syscalls.name(machine or "", number)
        call = f"{name} (number {number})" if name else f"number {number}"
    where = f" on {machine}" if machine else ""
    told = fields.get("code", "")
    code = _NAMED_ACTIONS.get(told.lower()) if told.isalpha() else _whole(told, 16)
    lines = [
        f"seccomp: {_who(fields)} made the system call {call}{where}, which its filter reports"
    ]
    if code is not None:
        action = _ACTIONS.get(code & 0xFFFF0000, f"action {code:#x}")
        errno = f" {code & 0xFFFF}" if code & 0xFFFF0000 == 0x00050000 and code & 0xFFFF else ""
        lines.append(f"  {action}{errno}")
    if fields.get("sig", "0") != "0":
        lines.append(f"  with {_signal(fields)}")
    if fields.get("exe"):
        lines.append(f"  its program: {fields['exe']}")
    lines.append("the filter is the container's seccompProfile, else the runtime's default profile")
    return lines


def _machine(arch: str) -> str | None:
    """The machine from the kernel's number, or from a name that a tool put in its place."""
    named = {"aarch64": "arm64"}.get(arch, arch)
    return (
        named
        if named in syscalls.MACHINES.values()
        else syscalls.MACHINES.get(_whole(arch, 16) or 0)
    )


def _apparmor(fields: dict[str, str]) -> Answer:
    done = "denied" if fields["apparmor"] == "DENIED" else "would deny (complain mode)"
    what = fields.get("operation", "something")
    on = f" on {fields['name']}" if fields.get("name") else ""
    lines = [f"AppArmor {done} {_who(fields)}: {what}{on}"]
    asked = fields.get("denied_mask") or fields.get("requested_mask") or fields.get("capname")
    lines += [f"  asked for: {asked}"] if asked else []
    return lines + ([f"  by the profile {fields['profile']}"] if fields.get("profile") else [])


def _selinux(avc: re.Match[str], fields: dict[str, str]) -> Answer:
    on = fields.get("name") or fields.get("path") or fields.get("dest")
    lines = [
        f"SELinux {avc['verdict']} {_who(fields)}: {avc['what'].strip()}"
        + (f" on {on}" if on else "")
    ]
    for key, words in (("scontext", "the process's"), ("tcontext", "the object's")):
        lines += [f"  {words} context: {fields[key]}"] if fields.get(key) else []
    if fields.get("permissive") == "1":
        lines.append("  permissive: it was allowed all the same")
    return lines


def _value(found: re.Match[str]) -> str:
    """The kernel writes text that could end the quotation in hexadecimal, without quotes."""
    if found["quoted"] is not None:
        return found["quoted"]
    plain = found["plain"]
    if found["key"] in ("comm", "exe", "name") and re.fullmatch("(?:[0-9A-F]{2}){1,2048}", plain):
        return bytes.fromhex(plain).rstrip(b"\0").decode("utf-8", "backslashreplace")
    return plain


def _who(fields: dict[str, str]) -> str:
    comm = fields.get("comm", "a process")
    return f"{comm} (pid {fields['pid']})" if fields.get("pid", "").isdecimal() else comm


def _signal(fields: dict[str, str]) -> str:
    if fields.get("sig", "").startswith("SIG"):
        return fields["sig"]
    number = _whole(fields.get("sig"), 10) or 0
    return signal_name(number) if 1 <= number <= SIGRTMAX else "a signal"


def _whole(text: str | None, base: int) -> int | None:
    if text is None or len(text) > 20:
        return None
    try:
        return int(text, base)
    except ValueError:
        return None


KIND = Kind(_read, marks=("type=", "apparmor=", "avc: "), rank=40)
