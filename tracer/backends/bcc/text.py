# SPDX-License-Identifier: Apache-2.0
"""The program that BCC compiles: the shipped sources as one text, made for the headers of a node.

The sources are the core backend's. `probes/include/bcc.h` adapts them; its head says what it leaves
to this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

# Without a ring buffer, a record waits in a slot until its program ends (spool.h).
SLOTS = 8
SLOT_BYTES = 4608

# The upper 48 bits of a constant that stands for a setting: KT_MARK in bcc.h.
MARK = 0x4B5472616365

# BCC reads a text with all its headers in three passes: to find tracepoints, to rewrite, to
# compile. The first two passes see only program names, so only the third is expensive. BCC itself
# marks the third pass: if READ_FIRST is defined, it defines READ_LAST there. Both macros are for
# kernels of 2018; no header of a kernel with enough BPF for ktrace tests them.
READ_FIRST = "CONFIG_CC_STACKPROTECTOR_AUTO"
READ_LAST = "CONFIG_CC_STACKPROTECTOR"
# A program of this name exists only if BCC did not define READ_LAST.
UNREAD = "kt_unread"

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
# A header that not every kernel has stands behind a line that asks for it.
_KERNEL_INCLUDE = re.compile(
    r"^#if __has_include\(.*\)\n#include <.*>\n#endif$|^#include <.*>.*$", re.MULTILINE
)
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
    """The text with all `programs` of these objects. `maps` and `settings` are numbered in this
    order, from 0; the values of `settings` are sizes in bytes. `build` holds the kernel's headers
    (/lib/modules/RELEASE/build). Without `ring`, records leave through perf buffers."""
    seen: set[str] = set()
    sources = "".join(_inlined(f"{name}.bpf.c", seen) for name in objects)
    # all before everything else, because bcc.h redefines some of the kernel's names
    includes = dict.fromkeys(_KERNEL_INCLUDE.findall(sources))
    sources = _KERNEL_INCLUDE.sub(lambda found: "\n" * found[0].count("\n"), sources)
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
    """For each KT_PRESENT in the sources: its name, and whether one of its headers contains its
    text. White space and comments are ignored."""
    for name, headers, text in _PRESENT.findall(sources):
        wanted = _squeezed(text)
        yield name, any(wanted in _header(header, directories) for header in headers.split())


def include_directories(build: Path) -> list[Path]:
    """Debian keeps the headers that all flavours share in `source`, beside `build`."""
    return [tree / "include" for tree in (build, build.with_name("source")) if tree.is_dir()]


def _inlined(name: str, seen: set[str]) -> str:
    """A source with ktrace's own headers inlined, each at its first #include."""
    seen.add(name)
    text = _source(name)

    def inline(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 2
        inner = _inlined(found[1], seen) if found[1] not in seen | {"core.h"} else ""
        return f'{inner}#line {line} "{name}"'

    return f'#line 1 "{name}"\n{_INCLUDE.sub(inline, text)}'


def _without_kernel_types(sources: str) -> str:
    """Keeps line numbers."""
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
