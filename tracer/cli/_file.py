# SPDX-License-Identifier: Apache-2.0
"""Options from a YAML file: the same words as on the command line, without the dashes in front."""

from __future__ import annotations

import difflib
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import click

from tracer.kernel.limits import reason
from tracer.model.errors import UsageError

MAX_FILE = 1 << 20
# Characters of an unknown word.
MAX_SHOWN = 100


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
        found = options_of_file(Path(file), context.command.params)
        for param in context.command.params:
            if param.name in found:
                _check(Path(file), context, param, found[param.name])
        context.default_map = found


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
        if not isinstance(word, str):
            raise UsageError(f"{file}: options are words", "write one a line: `history-time: 7d`")
        param = words.get(word)
        if param is None:
            near = difflib.get_close_matches(word[:MAX_SHOWN], words, 1)
            hint = f"did you mean {near[0]}?" if near else "ktrace agent --help lists the words"
            raise UsageError(f"{file}: there is no option {word[:MAX_SHOWN]!r}", hint)
        found[str(param.name)] = _value(file, word, value, param)
    return found


def _check(file: Path, context: click.Context, param: click.Parameter, value: Any) -> None:
    """So that the message names the file, too."""
    try:
        param.type_cast_value(context, value)
    except click.BadParameter as error:
        word = max(param.opts, key=len)[2:]
        remedy = "ktrace agent --help says what it takes"
        raise UsageError(f"{file}: {word}: {error.message}", remedy) from error


def _value(file: Path, word: str, value: Any, param: click.Option) -> Any:
    if param.multiple:
        values = value if isinstance(value, list) else [value]
        if all(isinstance(one, str) for one in values):
            return values
        raise UsageError(f"{file}: {word} takes a list of words", f"write `{word}: [one, another]`")
    if param.is_flag:
        if isinstance(value, bool):
            return value
        raise UsageError(
            f"{file}: {word} is true or false", f"write `{word}: true`, or leave it out"
        )
    if not isinstance(value, str):
        remedy = f"write `{word}: …`, in quotes if it is a word such as true; or leave it out"
        raise UsageError(f"{file}: {word} takes one value", remedy)
    return value


def _mapping(file: Path) -> dict[Any, Any]:
    import yaml

    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
            raise UsageError(f"{file} is no file", "give a file with --config")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {reason(error)}", "give another file with --config"
        ) from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{file} is larger than {MAX_FILE >> 20} MiB")
    try:
        told = yaml.load(data, _words_loader())  # noqa: S506 (a safe one)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        remedy = "write one option a line: `history-time: 7d`"
        raise UsageError(f"{file} is no YAML: {why}", remedy) from error
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise UsageError(f"{file} must hold options, one a line: `history-time: 7d`")
    return told


def _words_loader() -> Any:
    """A safe one that takes words as they stand, but for true, false and nothing: no number or date
    is made of a name. A word that stands twice is refused."""
    import yaml

    class Words(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            words = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
            for word, times in words.items():
                if times > 1:
                    raise yaml.YAMLError(f"{word[:MAX_SHOWN]} stands in it {times} times")
            return super().construct_mapping(node, deep)

    kept = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
    Words.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag in kept]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Words
