# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from tracer import probes
from tracer.backends import NAMES
from tracer.model.errors import UsageError
from tracer.model.selection import Selection, parse_labels
from tracer.model.units import seconds
from tracer.probes import Options, Probe

MAX_PIDS = 1024  # kt_pids
MAX_PID = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_WORD = re.compile(r"[\w.-]+", re.ASCII)

Completion = Callable[[Any, Any, str], list[CompletionItem]]


class Duration(click.ParamType[float]):
    """`30s`, `5m`, `1h30m` or plain seconds; a float of seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return seconds(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration: 30s, 5m or 1h30m", param, ctx)


def _complete(attribute: str) -> Completion:
    """Completes only names that need no quoting in a shell: names are untrusted."""

    def complete(_ctx: Any, _param: Any, begun: str) -> list[CompletionItem]:
        from tracer.identity.inventory import current_names, inventory

        names = {getattr(entry, attribute) or "" for entry in inventory(current_names(None))}
        words = sorted(name for name in names if _WORD.fullmatch(name))
        return [CompletionItem(word) for word in words if word.startswith(begun)]

    return complete


complete_pod = _complete("pod")
complete_namespace = _complete("namespace")


def complete_probes(_ctx: Any, _param: Any, begun: str) -> list[CompletionItem]:
    """Completes the last of `A,B,…`."""
    before, comma, last = begun.rpartition(",")
    names = [name for name in probes.names() if name.startswith(last)]
    return [CompletionItem(before + comma + name) for name in names]


def or_file(complete: Completion) -> Completion:
    """Completes file names, too."""
    return lambda ctx, param, begun: [
        CompletionItem(begun, type="file"),
        *complete(ctx, param, begun),
    ]


def cri_socket() -> click.Option:
    return click.Option(
        ["--cri-socket"],
        type=click.Path(),
        metavar="PATH",
        help="The container runtime's CRI socket; default: the known ones that exist.",
    )


def kubernetes() -> list[click.Option]:
    return [
        click.Option(
            ["--kubernetes"],
            is_flag=True,
            help="Also take in what Kubernetes says of this node's pods: failed probes, evictions,"
            " deletions. Asks its API as the service account of this pod, or by KUBECONFIG.",
        ),
        click.Option(
            ["--kubeconfig"],
            type=click.Path(),
            metavar="FILE",
            help="How to reach the API for --kubernetes.",
        ),
    ]


class NodeName(click.ParamType[str]):
    """A valid node name."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from tracer.kernel.node import NAME

        if not NAME.fullmatch(value):
            self.fail(f"{value!r} is not the name of a node", param, ctx)
        return str(value)


def node_name() -> click.Option:
    return click.Option(
        ["--node-name"],
        type=NodeName(),
        envvar="NODE_NAME",
        show_envvar=True,
        metavar="NAME",
        help="What this node is called; default: its hostname. In a pod it has to be told.",
    )


def selectors() -> list[click.Option]:
    return [
        click.Option(
            ["-p", "--pod", "pods"],
            multiple=True,
            metavar="NAME",
            shell_complete=complete_pod,
            help="The pod it happened to: [namespace/]name, uid, glob or deploy/NAME. Repeatable.",
        ),
        click.Option(
            ["-n", "--namespace", "namespaces"],
            multiple=True,
            metavar="NAME",
            shell_complete=complete_namespace,
            help="Its namespace, or a glob. Repeatable.",
        ),
        click.Option(
            ["-c", "--container", "containers"],
            multiple=True,
            metavar="NAME",
            shell_complete=_complete("container"),
            help="Its container: a name, a glob or the beginning of an id. Repeatable.",
        ),
        click.Option(
            ["-l", "--selector", "labels"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Labels of the pod, as with kubectl: app=web,tier.",
        ),
        click.Option(
            ["--sender-pod", "sender_pods"],
            multiple=True,
            metavar="NAME",
            help="The pod on the other side, for events with two sides. Repeatable.",
        ),
        click.Option(
            ["--pid", "pids"],
            multiple=True,
            type=Number(1, MAX_PID),
            metavar="PID",
            help="The process it happened to. Repeatable.",
        ),
        click.Option(
            ["--all", "everything"], is_flag=True, help="Also what concerns no pod: the whole node."
        ),
        click.Option(
            ["--wait"],
            is_flag=True,
            help="Do not fail when no such pod or process is there yet: wait for it.",
        ),
    ]


class Number(click.IntRange):
    """Named so that click's complaint is a sentence."""

    name = "number"


class Size(click.ParamType[int]):
    """`500K`, `100M`, `2G` or plain bytes, in powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
        if not found or not int(found[1]):
            self.fail(f"{value!r} is not a size: 500K, 100M or 2G", param, ctx)
        return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


def output() -> list[click.Option]:
    return [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "wide", "json", "rows", "rows-wide"]),
            metavar="[table|wide|json]",  # rows and rows-wide are for kubectl ktrace
            default="table",
            show_default=True,
            help="json is one object a line.",
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out the column titles."),
        color(),
    ]


def color() -> click.Option:
    return click.Option(
        ["--color"],
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="Default: when writing to a terminal and NO_COLOR is not set.",
    )


def in_colour(choice: str) -> bool:
    """Whether to colour standard output, for a value of `color`."""
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def count() -> click.Option:
    return click.Option(["--count"], type=Number(1), metavar="N", help="Stop after N events.")


def no_argv() -> click.Option:
    return click.Option(
        ["--no-argv"], is_flag=True, help="Keep no arguments of processes: they may hold secrets."
    )


def limits() -> list[click.Option]:
    return [
        click.Option(["--duration"], type=Duration(), metavar="TIME", help="Stop after 30s, 5m …"),
        click.Option(
            ["--backend"],
            type=click.Choice(["auto", *NAMES]),
            default="auto",
            help="How to get at the kernel; see ktrace doctor.",
        ),
        click.Option(
            ["--ready-file"],
            type=click.Path(),
            metavar="PATH",
            help="Create this file once every probe is attached.",
        ),
    ]


def probe_options(wanted: Iterable[Probe]) -> list[click.Option]:
    """The options of these probes."""
    return [
        click.Option(
            [asked.word, asked.name],
            is_flag=asked.is_flag,
            default=asked.default,
            metavar=asked.metavar,
            help=asked.help,
        )
        for probe in wanted
        for asked in probes.asked(probe.options)
    ]


def every_probe() -> list[Probe]:
    return [probes.get(name) for name in probes.names()]


def options_of(probe: Probe, values: Mapping[str, Any]) -> Options:
    """The probe's options by these values."""
    return probe.options(
        **{asked.name: values[asked.name] for asked in probes.asked(probe.options)}
    )


def _refuse_empty(values: Mapping[str, Any]) -> None:
    """An empty name comes from an unset variable of a shell, and would match nothing."""
    for option in selectors():
        asked = values.get(option.name or "")
        if isinstance(asked, tuple) and any(not str(word).strip() for word in asked):
            word = option.opts[-1]
            raise UsageError(f"{word} is empty", f"leave out {word} to select all")


def selection(values: Mapping[str, Any], besides: tuple[str, ...] = ()) -> Selection:
    """From the options of a command with all or some of the selectors."""
    everything, pids = values.get("everything", False), values.get("pids", ())
    pods, sender_pods = values["pods"], values.get("sender_pods", ())
    namespaces, containers = values["namespaces"], values["containers"]
    if everything and (pods or namespaces or containers or values["labels"] or sender_pods):
        raise UsageError(
            "--all and a selector of pods exclude each other", "leave out --all, or the selector"
        )
    _refuse_empty(values)
    if len(set(pids)) > MAX_PIDS:
        raise UsageError(
            f"--pid takes at most {MAX_PIDS} processes", "select a pod instead: -p NAME"
        )
    return Selection(
        pods=pods,
        namespaces=namespaces,
        containers=containers,
        labels=parse_labels(values["labels"]),
        sender_pods=sender_pods,
        pids=frozenset(pids),
        everything=everything,
        besides=besides,
    )
