# SPDX-License-Identifier: Apache-2.0
"""Facts from the log lines of failed allocations: warn_alloc() in mm/page_alloc.c, vmalloc and the
slab allocators."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass

from tracer.decode import flags
from tracer.decode.kind import Answer, Kernel
from tracer.decode.lines import name_before
from tracer.model.units import size

# The kernel does not try hard to find blocks above this order (PAGE_ALLOC_COSTLY_ORDER).
COSTLY_ORDER = 3

_MASK = r"(?P<mask>0x[0-9a-fA-F]{1,16})(?:\((?P<names>[\w|]{0,512})\))?"
_PAGES = re.compile(
    r"page allocation (?P<what>failure|stalls for \d{1,10}ms)[:.,]"
    rf" *order:(?P<order>\d{{1,9}}),? mode:{_MASK}"
)
_VMALLOC = re.compile(
    r"vmalloc(?: error)?: (?:allocation failure:? |allocation failure,"
    r" allocated \d{1,20} of |size )(?P<bytes>\d{1,20})(?P<rest>[^\n]{0,200}?)"
    rf"(?:,? mode:{_MASK}|\Z)"
)
_ASKED = re.compile(rf"\border[:=] ?(?P<order>\d{{1,9}}),? {{0,4}}(?:gfp_)?mode:{_MASK}")
# slab_out_of_memory() in mm/slub.c; in a cgroup's cache its number and name, before 5.9
_CACHE = re.compile(
    r"\bcache: (?P<name>[^\s,(]{1,64})(?:\(\d{1,10}:(?P<cgroup>[^\s,)]{1,255})\))?,"
    r" object size: (?P<bytes>\d{1,12}),"
)
_SLABS = re.compile(
    r"\bnode (?P<node>\d{1,4}): slabs: \d{1,12}, objs: (?P<all>\d{1,15}), free: (?P<free>\d{1,15})"
)
_SLAB = re.compile(
    r"(?P<which>SL[AUO]B): Unable to allocate memory on (?:CPU \d{1,5} \(of node \d{1,4}\) on )?"
    rf"node (?P<node>-?\d{{1,4}})(?:,? \(?gfp=){_MASK}"
)


@dataclass(frozen=True, slots=True)
class Failure:
    comm: str
    stalled: bool
    order: int
    mask: int
    named: str | None


def failure(text: str) -> Failure | None:
    found = _PAGES.search(text)
    if not found:
        return None
    comm = name_before(text, found.start())
    stalled = found["what"] != "failure"
    return Failure(comm, stalled, int(found["order"]), int(found["mask"], 16), found["names"])


def sentences(one: Failure, kernel: Kernel, page_size: int | None = None) -> Answer:
    what = "waited long for" if one.stalled else "could not allocate"
    lines = [f"{one.comm} {what} {pages(one.order, page_size)}"]
    lines += flags.of_line(one.mask, one.named, kernel)
    if one.order > COSTLY_ORDER:
        lines.append(
            "more than 8 pages in one piece: often memory is free but in small pieces;"
            " ktrace decode < /proc/buddyinfo shows it"
        )
    elif one.order == 0:
        lines.append("a single page: this is a real lack of memory, or a limit")
    return lines


def pages(order: int, page_size: int | None = None) -> str:
    """A block's size in words, in bytes if the page size of that machine is known."""
    unit = page_size or mmap.PAGESIZE
    if order == 0:
        return f"one page, {size(unit)}"
    total = size(unit << order) if order < 32 else "impossibly many"
    return f"order {order}: 2^{order} pages, {total} in one piece"


def vmalloc(text: str, kernel: Kernel) -> Answer | None:
    found = _VMALLOC.search(text)
    if not found:
        return None
    comm = name_before(text, found.start())
    lines = [f"{comm} could not allocate {size(int(found['bytes']))} with vmalloc"]
    if "order" in found["rest"] and "pages" in found["rest"]:
        lines[0] += ": there were no pages for it"
    elif "vm_struct" in found["rest"] or "area" in found["rest"]:
        lines[0] += ": no addresses were left for it"
    if found["mask"]:
        lines += flags.of_line(int(found["mask"], 16), found["names"], kernel)
    return lines


def asked(text: str, kernel: Kernel) -> Answer | None:
    """An incomplete quotation of a failure line."""
    found = _ASKED.search(text)
    if not found:
        return None
    named = found["names"]
    return [
        f"an allocation of {pages(int(found['order']))}",
        *flags.of_line(int(found["mask"], 16), named, kernel),
    ]


def slab(text: str, kernel: Kernel) -> Answer | None:
    found = _SLAB.search(text)
    if not found:
        return _cache(text)
    node = "any node" if found["node"].startswith("-") else f"node {found['node']}"
    return [
        f"the kernel's {found['which']} allocator found no memory on {node} for small objects; the"
        " line behind it names the cache",
        *flags.of_line(int(found["mask"], 16), found["names"], kernel),
    ]


def _cache(text: str) -> Answer | None:
    """The lines behind the one of the failure."""
    if found := _SLABS.search(text):
        return [f"  on node {found['node']}: {found['free']} of {found['all']} objects are free"]
    found = _CACHE.search(text)
    if not found:
        return None
    lines = [f"the cache is {found['name']}, for objects of {size(int(found['bytes']))}"]
    if found["cgroup"]:
        lines[0] += f", that of cgroup {found['cgroup']}: its memory limit counts, not the node's"
    return lines
