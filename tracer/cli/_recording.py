# SPDX-License-Identifier: Apache-2.0
"""What the commands that read a recording have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tracer.errors import BadRecording

if TYPE_CHECKING:
    from tracer.recording.reader import Reader


def check_whole(reader: Reader, file: str) -> None:
    """Says what of a cut recording was left out; raises `BadRecording` if it is damaged."""
    left = f"{reader.size - reader.used} of {reader.size} bytes could not be used"
    if reader.damage:
        raise BadRecording(f"{file}: {reader.damage} at byte {reader.used}; {left}")
    if reader.cut:
        click.echo(f"ktrace: {file} is cut: {left}", err=True)
