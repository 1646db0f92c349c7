# SPDX-License-Identifier: Apache-2.0
"""Explain an exit code, a signal, a gfp mask, a kernel log line, a cgroup path; or stdin.

`ktrace decode TEXT`: explains an exit code, a signal, a gfp mask, a line or a whole report of the
kernel log, a cgroup path or /proc/buddyinfo. Needs no privileges and no other program.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from tracer.decode import gfp
from tracer.decode.kind import THIS_KERNEL, Answer, FlagNames
from tracer.decode.text import Decoder
from tracer.kernel import limits
from tracer.kernel.gfp import names_here
from tracer.model.bounded import keep
from tracer.model.errors import KtraceError, UsageError
from tracer.model.summary import summary
from tracer.outputs.escape import escape

MAX_FORMAT = 1 << 20
MAX_LINE = 1 << 16
READ_SIZE = 1 << 16
# Seconds without a line, after which an unfinished report is explained.
PATIENCE = 1.0
MAX_SAID = 1024
_KNOWN = (
    "what can be decoded: 137, SIGTERM, 0xcc0, a line of the kernel log, a cgroup path; a whole log"
    " or /proc/buddyinfo on stdin"
)
_COPY = "copy /sys/kernel/tracing/events/kmem/mm_page_alloc/format from that kernel"


def run(what: str | None, kernel_format: str | None) -> None:
    names = _names(kernel_format)
    if what is None or what == "-":
        _decode_input(names)
        return
    decoder, said = Decoder(names), _Said()
    for line in what.split("\n"):
        said.show(decoder.feed(line[:MAX_LINE]))
    said.show(decoder.end())
    if not said.anything:
        raise UsageError(f"nothing is known about {what[:80]!r}", _KNOWN)


def _names(kernel_format: str | None) -> FlagNames:
    if kernel_format is None:
        return FlagNames(names_here(), THIS_KERNEL)
    try:
        with Path(kernel_format).open("rb") as file:
            text = file.read(MAX_FORMAT).decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(
            f"--kernel-format {kernel_format} cannot be read: {limits.reason(error)}", _COPY
        ) from error
    table = gfp.from_format(text)
    if not table:
        raise UsageError(
            f"--kernel-format {kernel_format} does not explain gfp flags",
            _COPY,
        )
    return FlagNames(table, kernel_format)


def _decode_input(names: FlagNames) -> None:
    """Decodes a log as it comes. Prints each answer as soon as it is complete."""
    if sys.stdin.isatty():
        raise UsageError("nothing to decode", _KNOWN)
    decoder, said = Decoder(names), _Said()
    for line in _lines(sys.stdin.fileno()):
        said.show(decoder.pause() if line is None else decoder.feed(line))
    said.show(decoder.end())
    if not said.anything:
        raise KtraceError("nothing in the input is known to ktrace", _KNOWN)
    if said.again:
        click.echo(f"ktrace: {said.again} answers were the same as one before", err=True)
    if decoder.unknown:
        click.echo(f"ktrace: {decoder.unknown} lines said nothing to ktrace", err=True)


def _lines(fd: int) -> Iterator[str | None]:
    """The lines of the input, None for a pause. A line without an end comes in pieces."""
    rest, waits = b"", False
    while True:
        if waits and not select.select([fd], [], [], PATIENCE)[0]:
            waits = False
            yield None
        raw = os.read(fd, READ_SIZE)
        waits = True
        *whole, rest = (rest + raw).split(b"\n")
        if not raw or len(rest) > MAX_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            for at in range(0, len(line), MAX_LINE):
                yield line[at : at + MAX_LINE].decode("utf-8", "backslashreplace")
        if not raw:
            return


_NEGATIVE = re.compile(r"-\d{1,20}")


class _Said:
    """Prints answers; only counts repeated ones."""

    def __init__(self) -> None:
        self._before: dict[int, None] = {}
        self.anything = False
        self.again = 0

    def show(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            key = hash(tuple(answer))
            if key in self._before:
                self.again += 1
                continue
            keep(self._before, key, None, MAX_SAID)
            self.anything = True
            for line in answer:
                click.echo(escape(line))


class _Command(click.Command):
    """Takes `-1` and `-1073741819` as exit codes, in the notation of programs and of Windows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = next((at for at, word in enumerate(args) if _NEGATIVE.fullmatch(word)), None)
        if at is not None and "--" not in args[:at]:
            args.insert(at, "--")
        return super().parse_args(ctx, args)


command = _Command(
    "decode",
    params=[
        click.Argument(["what"], required=False, metavar="[TEXT]"),
        click.Option(
            ["--kernel-format"],
            type=click.Path(),
            metavar="FILE",
            help="Name gfp flags by the events/kmem/mm_page_alloc/format of another kernel.",
        ),
    ],
    callback=run,
    help=summary(__doc__),
    epilog="\b\nExamples:\n"
    "  ktrace decode 137\n"
    "  ktrace decode SIGTERM\n"
    "  ktrace decode 0xcc0\n"
    "  ktrace decode 'java: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL)'\n"
    "  ktrace decode /kubepods/burstable/pod5016bc16-7c78-4389-a89c-9c971211370b\n"
    "  ktrace decode < /proc/buddyinfo\n"
    "  dmesg | ktrace decode\n"
    "  kubectl describe pod web-0 | ktrace decode",
    context_settings={"max_content_width": 110},
)
