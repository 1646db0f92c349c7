# SPDX-License-Identifier: Apache-2.0
"""The program that BCC compiles: the shipped sources as one text, made for the headers of a node.

The sources are those of the core backend. What differs is in `probes/include/bcc.h`; what that
cannot do by itself is done here, and its head says what that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

# Without a ring buffer a record waits in a slot until its program ends: spool.h.
SLOTS = 8
SLOT_BYTES = 4608

# The upper 48 bits of a constant that stands for a setting: KT_MARK in bcc.h.
MARK = 0x4B5472616365

# BCC reads a text with all its headers three times: to look for tracepoints, to rewrite it, and to
# compile it. Nothing in ours is for the first two, which need to know the programs' names alone.
# BCC itself gives a sign of the third: where READ_FIRST is defined it then defines READ_LAST. That
# is for kernels of 2018, and no header of one with BPF enough for us asks for either.
READ_FIRST = "CONFIG_CC_STACKPROTECTOR_AUTO"
READ_LAST = "CONFIG_CC_STACKPROTECTOR"
# Is among the programs only if a BCC did not define that.
UNREAD = "kt_unread"

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_KERNEL_INCLUDE = re.compile(r"^#include <.*>.*$", re.MULTILINE)
_KERNEL_TYPES = re.compile(
    r"^#pragma clang attribute push\(.*?^#pragma clang attribute pop$", re.MULTILINE | re.DOTALL
)
_FLAVOUR = re.compile(r"\b((?:struct|enum)\s+\w+?)___\w+")
_PRESENT = re.compile(r'\bKT_PRESENT\(\s*(\w+),\s*"([^"]+)",\s*"([^"]+)"\s*\)')
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def make_text(
    objects: Sequence[str],
    programs: Iterable[str],
    maps: Iterable[str],
    settings: Mapping[str, int],
    build: Path,
    *,
    ring: bool,
) -> str:
    """All `programs` of these objects, by name. `maps` and `settings` get their numbers in this
    order, from 0 on; settings come with their sizes in bytes. `build` is where the kernel's headers
    are (/lib/modules/RELEASE/build); without `ring` records leave through perf buffers."""
    seen: set[str] = set()
    sources = "".join(_inlined(f"{name}.bpf.c", seen) for name in objects)
    # all at once and before everything else, as bcc.h takes some names away from the kernel
    includes = dict.fromkeys(_KERNEL_INCLUDE.findall(sources))
    sources = _KERNEL_INCLUDE.sub("", sources)
    lines = [f"#ifdef {READ_LAST}", *includes, "#define KT_BCC"]
    if not ring:
        lines += ["#define KT_SPOOL", f"#define KT_SLOTS {SLOTS}"]
        lines += [f"#define KT_SLOT_BYTES {SLOT_BYTES}"]
    lines += [f"#define {name} KT_MAP_AT({number})" for number, name in enumerate(maps)]
    lines += [
        f"#define {name} (({'u64' if size == 8 else 'u32'})KT_SETTING_AT({number}))"
        for number, (name, size) in enumerate(settings.items())
    ]
    lines += [
        f"#define KT_HAS_{name} {int(present)}"
        for name, present in look_for(sources, include_directories(build))
    ]
    lines += [_FLAVOUR.sub(r"\1", _without_kernel_types(sources)), "#else"]
    lines += [f"int {name}(void *context) {{ return 0; }}" for name in [*programs, UNREAD]]
    return "\n".join([*lines, "#endif", ""])


def look_for(sources: str, directories: Sequence[Path]) -> Iterator[tuple[str, bool]]:
    """For each KT_PRESENT of the sources whether one of its headers has its text. White space and
    comments do not count."""
    for name, headers, text in _PRESENT.findall(sources):
        wanted = _squeezed(text)
        yield name, any(wanted in _header(header, directories) for header in headers.split())


def include_directories(build: Path) -> list[Path]:
    """Debian has the headers that are alike for all flavours apart: in `source`, beside `build`."""
    return [tree / "include" for tree in (build, build.with_name("source")) if tree.is_dir()]


def _inlined(name: str, seen: set[str]) -> str:
    """A source with our own headers in it, each where it is named first."""
    seen.add(name)
    text = _source(name)

    def inline(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 2
        inner = _inlined(found[1], seen) if found[1] not in seen | {"core.h"} else ""
        return f'{inner}#line {line} "{name}"'

    return f'#line 1 "{name}"\n{_INCLUDE.sub(inline, text)}'


def _without_kernel_types(sources: str) -> str:
    """Lines keep their numbers."""
    return _KERNEL_TYPES.sub(lambda found: "\n" * found[0].count("\n"), sources)


def _source(name: str) -> str:
    folder = "include" if name.endswith(".h") else ""
    return (resources.files("tracer") / "sources" / folder / name).read_text()


def _header(name: str, directories: Sequence[Path]) -> str:
    for directory in directories:
        try:
            return _squeezed((directory / name).read_text(errors="replace"))
        except OSError:
            continue
    return ""


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", _COMMENT.sub("", text))
