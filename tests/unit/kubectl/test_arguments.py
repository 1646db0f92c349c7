# SPDX-License-Identifier: Apache-2.0
"""Which words are whose: they must fit what ktrace's own commands take."""

from __future__ import annotations

import click
import pytest

from tracer import cli
from tracer.kubectl import arguments
from tracer.kubectl.arguments import HERE, IN_PODS, is_flag, parse
from tracer.model.errors import UsageError

COMMANDS = [
    name for name in cli.root.list_commands(click.Context(cli.root)) if name not in HERE | IN_PODS
]
OURS = {"--node", "--image", "--image-pull-secret", "--ktrace-namespace", "--all-nodes"}
OURS |= {"-A", "--all-namespaces"} | arguments.KUBECTL | arguments.KUBECTL_FLAGS
# On a node ktrace reads the file itself; in a pod it has a service account, and kubectl reads it.
OURS -= {"--kubeconfig"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_ktrace_is_understood(name: str) -> None:
    """Whether a value follows it, and that it is not also one of the plugin's."""
    command = cli.root.get_command(click.Context(cli.root), name)
    assert command
    for option in command.params:
        if isinstance(option, click.Option):
            assert not set(option.opts) & OURS
            assert {is_flag(written) for written in option.opts} == {option.is_flag}, option.opts


def test_words_before_and_behind_the_command() -> None:
    request = parse(
        [
            "--context",
            "prod",
            "-n",
            "shop",
            "why",
            "web-0",
            "--as=me",
            "--duration",
            "5m",
            "-A",
            "--node",
            "n1",
            "--node=n2",
        ]
    )
    assert (request.command, request.target) == ("why", "web-0")
    assert request.namespaces == ["shop", "*"]
    assert request.kubectl == ["--context=prod", "--as=me"]
    assert (request.nodes, request.duration) == (["n1", "n2"], "5m")
    assert request.rest == []


@pytest.mark.parametrize("written", [["-nshop"], ["-n", "shop"], ["-n=shop"], ["--namespace=shop"]])
def test_ways_to_write_an_option(written: list[str]) -> None:
    assert parse(["signals", *written]).namespaces == ["shop"]


def test_what_is_ktraces_goes_on_as_it_is() -> None:
    request = parse(
        ["signals", "--signal", "KILL,TERM", "--all", "--no-argv", "--sender-pod=x", "--pid", "7"]
    )
    assert request.rest == [
        *("--signal=KILL,TERM", "--all", "--no-argv", "--sender-pod=x", "--pid=7"),
    ]
    assert request.target is None


@pytest.mark.parametrize("written", [["-c", "app"], ["-capp"], ["-c=app"]])
def test_a_short_option_of_ktraces(written: list[str]) -> None:
    """As two words: `-c=app` would be the value `=app` there."""
    assert parse(["signals", *written]).rest == ["-c", "app"]


def test_a_pod_behind_options() -> None:
    assert parse(["why", "--wait", "--backend", "core", "web-0"]).target == "web-0"


def test_behind_two_hyphens_are_no_options() -> None:
    assert parse(["why", "--", "-n"]).target == "-n"


def test_a_value_that_is_missing() -> None:
    with pytest.raises(UsageError, match="--node needs a value"):
        parse(["signals", "--node"])


@pytest.mark.parametrize(
    "words", ["replay x.ktrace", "why x.ktrace", "live x.ktrace", "decode 137"]
)
def test_what_needs_no_node(words: str) -> None:
    assert parse(words.split()).is_here


def test_what_needs_one() -> None:
    assert not parse(["why", "shop/web-0"]).is_here
