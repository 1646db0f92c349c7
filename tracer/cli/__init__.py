# SPDX-License-Identifier: Apache-2.0
"""The command line. Its commands are the modules of this folder, and one for each probe in
`tracer.probes`. Only the module of the command that runs is imported."""

from __future__ import annotations

import gc
import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from tracer import probes
from tracer.kernel import limits
from tracer.model.errors import KtraceError
from tracer.model.summary import summary_of
from tracer.outputs.escape import escape

# Events form no reference cycles, so reference counting frees them. The cycle collector runs only
# after this many new objects.
MORE_OBJECTS = 100_000


class ReaderGone(Exception):
    """The reader of our output has closed the pipe."""


@contextmanager
def _reader_may_go() -> Iterator[None]:
    """Hides a closed pipe from click, which would exit with code 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return probes.names() + _modules()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _modules():
            command = importlib.import_module(f"{__name__}.{cmd_name}").command
            assert isinstance(command, click.Command)
            return command
        if cmd_name in probes.names():
            from tracer.cli._tracing import probe_command

            return probe_command(probes.get(cmd_name))
        return None

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _reader_may_go():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        with _reader_may_go():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Overridden because click cuts the summaries to the rest of the line, and imports every
        command for them."""
        modules = [f"{probes.__name__}.{name}" for name in probes.names()]
        modules += [f"{__name__}.{name}" for name in _modules()]
        with formatter.section("Commands"):
            formatter.write_dl([(m.rpartition(".")[2], summary_of(m)) for m in modules])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(
            "\nExamples:\n"
            "  ktrace why shop/web-0        what happens to a pod, how sure that is, what to do\n"
            "  ktrace signals -p web        who signals pod web, and from where\n"
            "  ktrace exits -n shop         how processes of namespace shop end\n"
            "  ktrace trace signals,exits   several questions in one stream\n"
            "  ktrace pods                  what runs on this node\n"
            "  ktrace doctor                what this node can tell, and what it lacks\n"
            '  eval "$(ktrace completion bash)"\n'
        )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ktrace", prog_name="ktrace")
def root() -> None:
    """Says what the kernel did to your pods: who killed, what was refused, and why."""


def main() -> None:
    """Runs a command. All errors become messages and exit codes here."""
    _prepare_streams()
    gc.set_threshold(MORE_OBJECTS)
    try:
        code = root.main(prog_name="ktrace", standalone_mode=False)
        sys.stdout.flush()
    except KtraceError as error:
        _say(error.message, error.remedy)
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        _say(error.format_message(), _remedy(error))
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except (ReaderGone, BrokenPipeError):
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (OSError, MemoryError, RuntimeError) as error:
        code = _say_system_error(error)
    sys.exit(code if isinstance(code, int) else 0)


def _remedy(error: click.ClickException) -> str:
    """Where the command's help is; for a word too many or too few also its usage."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:  # click's parser does not always tell
        word = next((word for word in sys.argv[1:] if word in probes.names() + _modules()), None)
        return f"ktrace {word} --help" if word else "ktrace --help"
    words, path = [f"{context.command_path} --help"], context.command_path
    problem = error.format_message()
    if problem.startswith(("Missing argument", "Got unexpected extra argument")):
        words.insert(0, " ".join(["usage:", path, *context.command.collect_usage_pieces(context)]))
    if problem.startswith("Got unexpected") and "-p" in _flags(context):
        words.insert(0, "-p NAME selects a pod")
    return "; ".join(words)


def _flags(context: click.Context) -> list[str]:
    return [word for param in context.command.params for word in param.opts]


def _say_system_error(error: Exception) -> int:
    limit = limits.behind(error)
    file = error.filename if isinstance(error, OSError) else None
    if limit:
        _say(f"{file}: {limit.what}" if file else limit.what, limit.remedy)
    elif isinstance(error, OSError):
        _say(f"{file or 'writing the output'}: {error.strerror}")
    else:
        raise error
    return 1


def _say(problem: str, remedy: str | None = None) -> None:
    """Prints each in one line, escaped: names in it are untrusted."""
    for start, words in (("ktrace: ", problem), ("  ", remedy)):
        if words:
            with suppress(BrokenPipeError):  # the exit code still reports it
                click.echo(start + escape(" ".join(words.split())), err=True)


def _prepare_streams() -> None:
    """Opens closed standard streams to /dev/null, or the next opened file would take their
    descriptor. Characters outside a stream's encoding are written as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(nowhere, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _modules() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
