# SPDX-License-Identifier: Apache-2.0
"""A mask of GFP flags in sentences: by the names in the text if there are any, else by the tables
of the releases that may have written it."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.decode import eras, gfp
from tracer.decode.kind import Answer, Kernel

_MEANINGS = {
    "GFP_KERNEL": "may wait, reclaim and write to disk: the usual kind",
    "GFP_KERNEL_ACCOUNT": "may wait, reclaim and write to disk, and counts against the cgroup",
    "GFP_TEMPORARY": "may wait, reclaim and write to disk; will be given back soon",
    "GFP_ATOMIC": "must not wait, and may use what is kept for emergencies",
    "GFP_NOWAIT": "must not wait",
    "GFP_NOIO": "may wait, but start no disk I/O",
    "GFP_NOFS": "may wait, but not enter a file system",
    "GFP_USER": "for a user process, may wait",
    "GFP_HIGHUSER": "for a user process, any memory",
    "GFP_HIGHUSER_MOVABLE": "pages of a user process, which can be moved",
    "GFP_TRANSHUGE": "a huge page for a user process, for which it may wait",
    "GFP_TRANSHUGE_LIGHT": "a huge page for a user process, if there is one at once",
    "__GFP_ACCOUNT": "counts against the cgroup's limit",
    "__GFP_COLD": "need not be in a processor's cache",
    "__GFP_COMP": "the pages belong together as one",
    "__GFP_DIRECT_RECLAIM": "may wait while memory is freed",
    "__GFP_HIGH": "may use a part of the reserves",
    "__GFP_KMEMCG": "counts against the cgroup's limit for kernel memory",
    "__GFP_MEMALLOC": "may use all reserves",
    "__GFP_NOACCOUNT": "does not count against the cgroup's limit",
    "__GFP_NOFAIL": "must not fail: tried for ever",
    "__GFP_NOMEMALLOC": "must not use reserves",
    "__GFP_NORETRY": "given up at once: there is another way",
    "__GFP_NOWARN": "failure is expected and not logged",
    "__GFP_NO_KSWAPD": "does not wake the kernel's reclaimer",
    "__GFP_REPEAT": "tried hard, but may fail",
    "__GFP_RETRY_MAYFAIL": "tried hard, but may fail",
    "__GFP_SKIP_KASAN_POISON": "KASAN does not mark the pages when they are freed",
    "__GFP_THISNODE": "from this NUMA node only",
    "__GFP_WAIT": "may wait while memory is freed",
    "__GFP_ZERO": "filled with zeroes",
}


def of_names(named: str) -> Answer:
    """The flags whose names stand alone."""
    return [f"gfp flags {named}, by the kernel that wrote them", *explain(named)]


def of_line(mask: int, named: str | None, kernel: Kernel) -> Answer:
    """The flags in a line of the log; `named` are the names as the kernel wrote them."""
    if named:
        return [f"flags, by the kernel that wrote the line: {named}", *explain(named)]
    if kernel.names.chosen:
        return _by_table(f"flags: {_words(mask, kernel.names.table)}")
    if kernel.version:
        words = eras.of(kernel.version[:2]).words(mask)
        return [f"flags, as kernel {kernel.release} counts them: {words}", *explain(words)]
    old = eras.fits(mask, eras.NAMED_SINCE)
    readings = eras.readings(mask, eras.NAMED_SINCE if old else None)
    why = "a line without their names is of a kernel before 4.6" if old else ""
    if len(readings) == 1:
        only = readings[0]
        why = f" ({only.releases}; {why})" if why else f" ({only.releases})"
        return [f"flags: {only.words}{why}", *explain(only.words)]
    lines = ["flags: what they mean depends on the kernel" + (f"; {why}" if why else "")]
    return lines + [f"  {one.releases}: {one.words}" for one in readings]


def in_short(mask: int, named: str | None, kernel: Kernel) -> str:
    """The flags as a phrase inside a sentence."""
    if named:
        return named
    if kernel.names.chosen:
        return _words(mask, kernel.names.table)
    if kernel.version:
        return eras.of(kernel.version[:2]).words(mask)
    old = eras.fits(mask, eras.NAMED_SINCE)
    readings = eras.readings(mask, eras.NAMED_SINCE if old else None)
    return " or ".join(f"{one.words} ({one.releases})" for one in readings)


def of_mask(mask: int, kernel: Kernel) -> Answer:
    """The meanings of a number alone, from any kernel."""
    head = f"gfp mask {mask:#x}"
    if kernel.names.chosen:
        return _by_table(f"{head}: {_words(mask, kernel.names.table)}")
    readings = eras.readings(mask)
    here = _here(mask, kernel)
    if len(readings) == 1 and here in (None, readings[0].words):
        only = readings[0]
        return [f"{head}: {only.words} ({only.releases})", *explain(only.words), _CAUTION]
    lines = [f"{head} depends on the kernel"]
    if here and all(here != one.words for one in readings):
        lines.append(f"  this kernel: {here}")
    lines += [
        f"  {one.releases}{', and this kernel' * (here == one.words)}: {one.words}"
        for one in readings
    ]
    seen = dict.fromkeys(flag for one in readings for flag in one.words.split("|"))
    return [*lines, *explain("|".join(seen)), _CAUTION]


_CAUTION = (
    "what a number means depends on the kernel, and a distribution may have its own:"
    " --kernel-format FILE names the flags by that kernel's events/kmem/mm_page_alloc/format"
)


def _here(mask: int, kernel: Kernel) -> str | None:
    """The reading by the names of this machine, if its code would use this mask."""
    table = kernel.names.table
    words = gfp.words(mask, table)
    if not table or any(word.startswith("0x") for word in words):
        return None
    return "|".join(words) if eras.ERAS[-1].fits(mask) else None


def _by_table(sentence: str) -> Answer:
    return [sentence, *explain(sentence.rpartition(": ")[2])]


def _words(mask: int, table: gfp.Table) -> str:
    return "|".join(gfp.words(mask, table)) or "no flag at all"


def explain(words: str) -> Answer:
    flags: Sequence[str] = words.split("|")
    lines = [f"  {flag}: {_MEANINGS[flag]}" for flag in flags if flag in _MEANINGS]
    unnamed = [flag for flag in flags if flag.startswith("0x")]
    return lines + [f"  {bits}: bits without a name there" for bits in unnamed]
