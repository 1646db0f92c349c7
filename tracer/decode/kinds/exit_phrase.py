# SPDX-License-Identifier: Apache-2.0
"""One-line phrases about an end from kubectl, docker, systemd, Go, Python, make and shells."""

from __future__ import annotations

import re

from tracer.decode import codes
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.decode.signals import NUMBERS

_NUMBER = r"(?P<code>-?\d{1,20}\b|0[xX][0-9a-fA-F]{1,16}\b)"
_NOT_HTTP = r"(?!(?:10[0-3]|2[0-2]\d|[3-9]\d\d)\b)"
_CODES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bExited \((?P<code>-?\d{1,20})\)",
        r"exit(?:ed|s|ing)?[ _-]?(?:with[ _-])?(?:a )?(?:non-?zero[ _-])?"
        r"(?:status code|code|status|value)"
        rf"""["']?\s{{0,40}}(?:of|is|was|with)?\s?[:=]?\s{{0,40}}["'(]{{0,2}}{_NUMBER}""",
        r"(?:return(?:ed)?|termination|non-?zero)(?: a non-?zero)?[ _-]?code"
        rf"""["']?\s{{0,40}}[:=]?\s{{0,40}}["'(]{{0,2}}{_NUMBER}""",
        # others have status codes and error codes, too: HTTP, libraries
        rf"""(?:error|status)[ _-]?code["']?\s{{0,40}}[:=]?\s{{0,40}}["'(]{{0,2}}"""
        rf"{_NOT_HTTP}(?P<code>-?\d{{1,3}}\b)",
        rf"\A(?:exit|exited|rc|ret|status|code)[ :=]{{1,3}}{_NUMBER}\Z",
        rf"\+\+\+ exited with {_NUMBER}",  # strace(1)
        rf"npm ERR! (?:code|errno) {_NUMBER}",
        rf"\*\*\* [^\n]{{0,200}} Error {_NUMBER}",
    )
)
# systemd.exec(5), "Process Exit Codes"
_SYSTEMD = re.compile(
    r"code=(?P<code>exited|killed|dumped),? status=(?P<status>\d{1,3})(?:/(?P<name>[\w/+]{1,32}))?"
)
_SIGNAL = re.compile(
    # `\A#`: what a JVM writes when it crashes
    r"(?i:signal(?: number)?)[ :=(\"']{1,4}#?(?P<number>\d{1,2})\b|"
    r"(?:\b(?i:signal|sent|by|with|died|killed)\b|[<:=('\"]|\A#)[ :<('\"]{0,3}"
    r"(?:Signals\.)?SIG(?P<name>[A-Z]{2,7}\d?)\b"
)
# Go's and the shells' words for a signal (strsignal(3)), where they stand at the end
_SPOKEN = {
    "killed": "KILL",
    "terminated": "TERM",
    "hangup": "HUP",
    "interrupt": "INT",
    "segmentation fault": "SEGV",
    "aborted": "ABRT",
    "abort trap": "ABRT",
    "bus error": "BUS",
    "illegal instruction": "ILL",
    "floating point exception": "FPE",
    "broken pipe": "PIPE",
    "trace/breakpoint trap": "TRAP",
    "bad system call": "SYS",
    "quit": "QUIT",
}
_WORDS = re.compile(
    r"(?:\A|signal:? |\*\*\* \[[^\]\n]{1,200}\] |zsh: |"
    r": line \d{1,9}: {1,8}\d{1,10} |\[\d{1,4}\][+-]? {0,8}\d{0,10} {1,8})"
    rf"(?P<words>{'|'.join(map(re.escape, _SPOKEN))})\b"
    r"(?: ?\((?:core dumped|\d{1,2})\)|\Z| {2})",
    re.IGNORECASE,
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    systemd = _SYSTEMD.search(text)
    if systemd:
        return _of_systemd(systemd)
    for pattern in _CODES:
        if found := pattern.search(text):
            return codes.exit_code(int(found["code"], 0 if "x" in found["code"].lower() else 10))
    if found := _SIGNAL.search(text):
        number = int(found["number"]) if found["number"] else NUMBERS.get(found["name"], 0)
        return codes.of_signal(number) if 1 <= number <= 64 else None
    if found := _WORDS.search(text):
        return codes.of_signal(NUMBERS[_SPOKEN[found["words"].lower()]])
    return None


def _of_systemd(found: re.Match[str]) -> Answer:
    status, name = int(found["status"]), found["name"] or ""
    if found["code"] != "exited":
        return codes.of_signal(status) if 1 <= status <= 64 else codes.exit_code(status)
    if 200 <= status <= 245 and name not in ("", "n/a"):
        return [
            f"exit code {status}: systemd itself could not start the program, at the step {name};"
            " systemd.exec(5) lists them"
        ]
    return codes.exit_code(status)


KIND = Kind(
    _read,
    marks=(
        *(
            "xit",
            "XIT",
            "code",
            "Code",
            "ignal",
            "SIG",
            "Error ",
            "rc",
            "RC",
            "ret",
            "tatus",
            "errno",
        ),
        *("illed", "erminated", "ault", "borted", "rror", "nstruction", "xception", "pipe"),
        *("angup", "nterrupt", "trap", "system call", "uit"),
    ),
    rank=70,
)
