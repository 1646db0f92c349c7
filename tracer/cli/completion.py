# SPDX-License-Identifier: Apache-2.0
"""Print a completion script for a shell.

`ktrace completion`: a shell script that completes commands, options and pod names.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tracer.model.errors import UsageError
from tracer.model.summary import summary


def run(shell: str) -> None:
    from tracer.cli import root

    completion = get_completion_class(shell)
    if completion is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(completion(root, {}, "ktrace", "_KTRACE_COMPLETE").source())


command = click.Command(
    "completion",
    params=[click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
    callback=run,
    help=summary(__doc__),
    epilog='\b\nExamples:\n  eval "$(ktrace completion bash)"',
)
