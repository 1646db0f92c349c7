# SPDX-License-Identifier: Apache-2.0
"""What a node is found to have for building programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.backends import toolchain
from tracer.backends.toolchain import (
    family,
    headers,
    install,
    lacking_headers,
    lockdown,
    modules_must_be_signed,
)

WANTED = "6.1.0-56-cloud-amd64"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=debian\n", "debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "debian"),
        ('ID="rhel"\n', "rhel"),
        ('ID=rocky\nID_LIKE="rhel centos fedora"\n', "rhel"),
        ("NAME='Alpine'\nID=alpine\n", None),
        ("# a comment = no setting\nno setting at all\n\n", None),
    ],
)
def test_family(text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(text)
    assert family(tmp_path / "os-release") == expected


def test_family_of_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert family(tmp_path / "os-release") is None


@pytest.mark.parametrize(
    ("here", "command"),
    [
        ("debian", "apt-get install this"),
        ("rhel", "dnf install that"),
        (None, "apt-get install this (Debian, Ubuntu), dnf install that (RHEL, Fedora)"),
    ],
)
def test_install(here: str | None, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "family", lambda: here)
    assert install("this", "that") == command


def put_headers(root: Path, directory: str, release: str) -> Path:
    tree = root / directory
    (tree / "include" / "generated").mkdir(parents=True)
    words = f'#define UTS_RELEASE "{release}"\n'
    (tree / "include" / "generated" / "utsrelease.h").write_text(words)
    return tree


def link_build(root: Path, release: str, target: Path) -> Path:
    build = root / "lib" / "modules" / release / "build"
    build.parent.mkdir(parents=True)
    build.symlink_to(target)
    return build


def test_headers_as_debian_has_them(tmp_path: Path) -> None:
    tree = put_headers(tmp_path, f"usr/src/linux-headers-{WANTED}", WANTED)
    build = link_build(tmp_path, WANTED, tree)
    assert headers(WANTED, tmp_path) == toolchain.Headers(WANTED, build, ())
    assert lacking_headers(WANTED, tmp_path) == []


def test_headers_as_rhel_has_them(tmp_path: Path) -> None:
    release = "5.14.0-427.el9.x86_64"
    tree = put_headers(tmp_path, f"usr/src/kernels/{release}", release)
    build = link_build(tmp_path, release, tree)
    assert headers(release, tmp_path).directory == build


def test_headers_of_other_releases_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "family", lambda: "debian")
    for release in ("6.1.0-55-cloud-amd64", "6.1.0-54-amd64"):
        tree = put_headers(tmp_path, f"usr/src/linux-headers-{release}", release)
        link_build(tmp_path, release, tree)
    (lack,) = lacking_headers(WANTED, tmp_path)
    assert lack.what == (
        f"kernel headers of exactly {WANTED}; "
        "there are those of 6.1.0-54-amd64, 6.1.0-55-cloud-amd64"
    )
    assert lack.remedy == f"apt-get install linux-headers-{WANTED}"


def test_a_link_to_headers_that_are_gone(tmp_path: Path) -> None:
    link_build(tmp_path, WANTED, tmp_path / "usr" / "src" / "gone")
    assert headers(WANTED, tmp_path) == toolchain.Headers(WANTED, None, ())


def test_headers_in_the_place_of_others(tmp_path: Path) -> None:
    """What they call themselves counts, not where they lie."""
    tree = put_headers(tmp_path, "usr/src/some", "6.1.0-55-cloud-amd64")
    link_build(tmp_path, WANTED, tree)
    assert headers(WANTED, tmp_path) == toolchain.Headers(WANTED, None, ("6.1.0-55-cloud-amd64",))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("[none] integrity confidentiality\n", None),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", None),
        (None, None),
    ],
)
def test_lockdown(text: str | None, mode: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    assert lockdown(tmp_path / "lockdown") == mode


@pytest.mark.parametrize(("text", "forced"), [("Y\n", True), ("N\n", False), (None, False)])
def test_signatures(text: str | None, forced: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "sig_enforce").write_text(text)
    assert modules_must_be_signed(tmp_path / "sig_enforce") is forced
