# SPDX-License-Identifier: Apache-2.0
"""Sorts the words of `kubectl ktrace` into those for the plugin, for kubectl and for ktrace.

ktrace checks its own words on the node, so they are not checked twice. Here only the choice of pods
and the display options are picked out. Options may stand anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tracer.model.errors import UsageError

# Shared options of ktrace's commands that take no value. A test compares them.
SHARED_FLAGS = frozenset(
    (
        *("--wait", "--next", "--all", "--no-headers", "--no-argv", "--kubernetes"),
        *("--help", "-h", "--version"),
    )
)
# kubectl's own options for the cluster and the user; each takes a value.
KUBECTL = frozenset(
    (
        *("--kubeconfig", "--context", "--cluster", "--user", "--server", "-s", "--token"),
        *("--as", "--as-group", "--as-uid", "--request-timeout", "--tls-server-name"),
        *("--certificate-authority", "--client-certificate", "--client-key", "--cache-dir"),
    )
)
KUBECTL_FLAGS = frozenset(("--insecure-skip-tls-verify",))
# Commands that read and write files here and not on a node.
HERE = frozenset(("replay", "info", "export", "report", "decode", "completion", "stap"))
# What only ktrace's own pods run.
IN_PODS = frozenset(("agent", "leash"))
RECORDING = ".ktrace"


@dataclass
class Request:
    """The parsed request. `rest` are ktrace's other words, in their order."""

    command: str | None = None
    target: str | None = None  # the word after the command: a pod, probes or a file
    rest: list[str] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    output: str | None = None
    ready_file: str | None = None
    duration: str | None = None
    count: str | None = None
    color: str = "auto"
    wait: bool = False
    headers: bool = True
    help: bool = False
    version: bool = False
    nodes: list[str] = field(default_factory=list)
    all_nodes: bool = False
    image: str | None = None
    pull_secret: str | None = None
    home: str | None = None  # the namespace of ktrace's own pods
    kubectl: list[str] = field(default_factory=list)

    @property
    def is_here(self) -> bool:
        """Whether it needs no node."""
        file = self.target is not None and self.target.endswith(RECORDING)
        return self.command in HERE or (self.command in ("why", "live") and file)


_LISTS = {
    "--pod": "pods",
    "-p": "pods",
    "--namespace": "namespaces",
    "-n": "namespaces",
    "--selector": "labels",
    "-l": "labels",
    "--node": "nodes",
}
_VALUES = {
    "--output": "output",
    "-o": "output",
    "--ready-file": "ready_file",
    "--duration": "duration",
    "--count": "count",
    "--color": "color",
    "--image": "image",
    "--image-pull-secret": "pull_secret",
    "--ktrace-namespace": "home",
}


def parse(words: Sequence[str]) -> Request:
    """Raises `UsageError` for an option without its value."""
    request = Request()
    for option, value in _pairs(words):
        if option is None:
            _take_word(request, value or "")
        elif option in _LISTS:
            getattr(request, _LISTS[option]).append(value)
        elif option in _VALUES:
            setattr(request, _VALUES[option], value)
        elif option in KUBECTL:
            request.kubectl.append(f"{_LONG.get(option, option)}={value}")
        elif option in KUBECTL_FLAGS:
            request.kubectl.append(option if value is None else f"{option}={value}")
        elif option in ("-A", "--all-namespaces"):
            request.namespaces.append("*")
        elif option == "--all-nodes":
            request.all_nodes = True
        elif option == "--wait":
            request.wait = True
        elif option == "--no-headers":
            request.headers = False
        elif option in ("-h", "--help"):
            request.help = True
        elif option == "--version":
            request.version = True
        elif value is None:
            request.rest.append(option)
        elif option.startswith("--"):
            request.rest.append(f"{option}={value}")
        else:  # behind a short one, `=` would be part of the value
            request.rest += [option, value]
    return request


def is_flag(option: str) -> bool:
    """Whether the option takes no value."""
    if option in SHARED_FLAGS | KUBECTL_FLAGS | _OURS:
        return True
    if option in _LISTS or option in _VALUES or option in KUBECTL:
        return False
    from tracer import probes  # probes declare their own options

    every = [one for name in probes.names() for one in probes.asked(probes.get(name).options)]
    return any(one.is_flag and option == one.word for one in every)


_LONG = {"-s": "--server"}
_HELP = "kubectl ktrace COMMAND --help lists the options of a command, kubectl ktrace --help others"
_OURS = frozenset(("-A", "--all-namespaces", "--all-nodes"))


def _take_word(request: Request, word: str) -> None:
    if request.command is None:
        request.command = word
    elif request.target is None:
        request.target = word
    else:
        request.rest.append(word)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Options with their values, and other words without an option."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            yield from ((None, one) for one in left)
            return
        if not word.startswith("-") or word == "-":
            yield None, word
            continue
        option, value = _split(word)
        if value is None and not is_flag(option):
            if not left:
                raise UsageError(f"{option} needs a value", _HELP)
            value = left.pop(0)
        yield option, value


def _split(word: str) -> tuple[str, str | None]:
    """`--name=value`, and as a short option `-nvalue` and `-n=value`."""
    if word.startswith("--"):
        option, equals, value = word.partition("=")
        return option, value if equals else None
    option, value = word[:2], word[2:].removeprefix("=")
    return option, value or None
