# SPDX-License-Identifier: Apache-2.0
"""`ktrace decode X`: what an exit code, a signal, a gfp mask, a line of the kernel log, a cgroup
path or /proc/buddyinfo means. Needs no privilege and asks nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from tracer import gfp
from tracer.buddyinfo import parse_line
from tracer.decoding import FlagNames, decode, decode_buddyinfo
from tracer.errors import KtraceError, UsageError
from tracer.views.escape import escape

MAX_FORMAT = 1 << 20
MAX_LINE = 8192
_KNOWN = (
    "what can be decoded: 137, SIGTERM, 0xcc0, a line of the kernel log, a cgroup path;"
    " /proc/buddyinfo on stdin"
)


def run(what: str | None, kernel_format: str | None) -> None:
    names = _names(kernel_format)
    if what is None or what == "-":
        _decode_input(names)
        return
    lines = decode(what, names)
    if lines is None:
        raise UsageError(f"nothing is known about {what[:80]!r}", _KNOWN)
    _show(lines)


def _names(kernel_format: str | None) -> FlagNames:
    if kernel_format is None:
        return FlagNames(gfp.names_here(), "this kernel")
    try:
        with Path(kernel_format).open("rb") as file:
            text = file.read(MAX_FORMAT).decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"--kernel-format {kernel_format}: {error.strerror}") from error
    table = gfp.from_format(text)
    if not table:
        raise UsageError(
            f"--kernel-format {kernel_format} does not explain gfp flags",
            "copy /sys/kernel/tracing/events/kmem/mm_page_alloc/format from that kernel",
        )
    return FlagNames(table, kernel_format)


def _decode_input(names: FlagNames) -> None:
    """Lines of a log one by one, as they come; those of /proc/buddyinfo together at the end."""
    if sys.stdin.isatty():
        raise UsageError("nothing to decode", _KNOWN)
    zones = []
    known = unknown = 0
    for line in _lines():
        try:
            zones.append(parse_line(line))
            continue
        except (ValueError, IndexError):
            lines = decode(line, names)
        if lines:
            known += 1
            _show(lines)
        else:
            unknown += 1
    if zones:
        _show(decode_buddyinfo(zones))
    if not known and not zones:
        raise KtraceError("nothing in the input is known to ktrace", _KNOWN)
    if unknown:
        click.echo(f"ktrace: {unknown} lines said nothing to ktrace", err=True)


def _lines() -> Iterable[str]:
    """Whatever comes: a line without an end is taken in pieces."""
    while raw := sys.stdin.buffer.readline(MAX_LINE):
        line = raw.decode("utf-8", "backslashreplace").strip()
        if line:
            yield line


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(escape(line))


command = click.Command(
    "decode",
    params=[
        click.Argument(["what"], required=False, metavar="[X]"),
        click.Option(
            ["--kernel-format"],
            type=click.Path(),
            metavar="FILE",
            help="Name gfp flags by the events/kmem/mm_page_alloc/format of another kernel.",
        ),
    ],
    callback=run,
    help="Explain an exit code, a signal, a gfp mask, a kernel log line, a cgroup path; or stdin.",
    epilog="\b\nExamples:\n"
    "  ktrace decode 137\n"
    "  ktrace decode SIGTERM\n"
    "  ktrace decode 0xcc0\n"
    "  ktrace decode 'java: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL)'\n"
    "  ktrace decode /kubepods/burstable/pod5016bc16-7c78-4389-a89c-9c971211370b\n"
    "  ktrace decode < /proc/buddyinfo\n"
    "  dmesg | ktrace decode",
    context_settings={"max_content_width": 110},
)
