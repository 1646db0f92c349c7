# SPDX-License-Identifier: Apache-2.0
"""Options from a YAML file: the same words as on the command line, without the dashes in front."""

from __future__ import annotations

import difflib
import stat
from pathlib import Path
from typing import Any

import click

from tracer.kernel.limits import reason
from tracer.model.errors import UsageError

MAX_FILE = 1 << 20


def config_option() -> click.Option:
    """The command line and the environment take precedence over the file."""
    return click.Option(
        ["--config"],
        type=click.Path(),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_into,
        help="Options in YAML: the words of this page, such as `history-time: 7d`.",
    )


def _read_into(context: click.Context, _param: click.Parameter, file: str | None) -> None:
    if file:
        context.default_map = options_of_file(Path(file), context.command.params)


def options_of_file(file: Path, params: list[click.Parameter]) -> dict[str, Any]:
    """By parameter name. Raises `UsageError` for an unknown word, with the nearest one."""
    words = {
        opt[2:]: param
        for param in params
        if isinstance(param, click.Option) and param.name != "config"
        for opt in param.opts
        if opt.startswith("--")
    }
    found: dict[str, Any] = {}
    for word, value in _mapping(file).items():
        param = words.get(word) if isinstance(word, str) else None
        if param is None:
            near = difflib.get_close_matches(str(word), words, 1)
            hint = f"did you mean {near[0]}?" if near else "ktrace agent --help lists the words"
            raise UsageError(f"{file}: there is no option {word!r}", hint)
        found[str(param.name)] = _value(file, word, value, param)
    return found


def _value(file: Path, word: str, value: Any, param: click.Option) -> Any:
    if param.multiple:
        values = value if isinstance(value, list) else [value]
        if all(isinstance(one, str | int | float) for one in values):
            return [str(one) for one in values]
        raise UsageError(f"{file}: {word} takes a list of words")
    if param.is_flag:
        if isinstance(value, bool):
            return value
        raise UsageError(f"{file}: {word} is true or false")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{file}: {word} takes one value")
    return str(value)


def _mapping(file: Path) -> dict[Any, Any]:
    import yaml

    try:
        with file.open("rb") as opened:
            if not stat.S_ISREG(file.stat().st_mode):
                raise UsageError(f"{file} is no file")
            data = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {reason(error)}", "give another file with --config"
        ) from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{file} is larger than {MAX_FILE >> 20} MiB")
    try:
        told = yaml.safe_load(data)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{file} is no YAML: {' '.join(str(error).split())[:300]}") from error
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise UsageError(f"{file} must hold options, one a line: `history-time: 7d`")
    return told
