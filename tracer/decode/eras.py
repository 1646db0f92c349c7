# SPDX-License-Identifier: Apache-2.0
"""GFP flags by kernel release, for masks without names from other machines.

The source is include/linux/gfp.h (gfp_types.h since 6.0). Logs name the flags since 4.6
(c5c990e8a1b5, "mm, page_alloc: print symbolic gfp_flags on allocation failure"), so a line without
names comes from an older kernel. The numbers changed in these releases:

    4.4   d0164adc89f6   __GFP_WAIT became __GFP_DIRECT_RECLAIM and __GFP_KSWAPD_RECLAIM
    4.10  41b6167e8f74   __GFP_OTHER_NODE left, the bits above it moved down
    4.18                 the bits of __GFP_COLD and __GFP_OTHER_NODE were reused
    5.0                  all above __GFP_FS in a new order
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.decode import gfp

Release = tuple[int, int]
NAMED_SINCE: Release = (4, 6)


@dataclass(frozen=True)
class Era:
    """The releases from `since` until the next era, with their table."""

    since: Release
    flags: dict[str, int]
    table: gfp.Table

    def fits(self, mask: int) -> bool:
        """Whether code of these releases would use this mask: every bit has a name, and flags that
        require waiting come with the right to wait."""
        if mask != self.known(mask):
            return False
        waits = self._has(mask, "WAIT") or self._has(mask, "DIRECT_RECLAIM")
        wakes = "KSWAPD_RECLAIM" not in self.flags or self._has(mask, "KSWAPD_RECLAIM")
        huge = self._has(mask, "NOMEMALLOC") and self._has(mask, "NOWARN")
        needs_to_wait = ("NOFAIL", "REPEAT", "RETRY_MAYFAIL", "WRITE", "NO_KSWAPD")
        return not (
            (not waits and any(self._has(mask, name) for name in needs_to_wait))
            or (not waits and (self._has(mask, "IO") or self._has(mask, "FS")) and not huge)
            or (waits and not wakes and not huge)
            or (not wakes and (self._has(mask, "HIGH") or self._has(mask, "ATOMIC")))
            or (self._has(mask, "MOVABLE") and self._has(mask, "RECLAIMABLE"))
        )

    def known(self, mask: int) -> int:
        """The mask without the bits that have no name."""
        return mask & sum(self.flags.values())

    def words(self, mask: int) -> str:
        if mask == 0 and "WAIT" in self.flags:
            return "GFP_NOWAIT"
        return "|".join(gfp.words(mask, self.table)) or "no flag at all"

    def _has(self, mask: int, name: str) -> bool:
        return bool(mask & self.flags.get(name, 0))


@dataclass(frozen=True)
class Reading:
    """The meaning of a mask in a range of releases."""

    words: str
    since: Release
    before: Release | None

    @property
    def releases(self) -> str:
        begin = f"{self.since[0]}.{self.since[1]}"
        if self.before is None:
            return f"since {begin}"
        end = f"{self.before[0]}.{self.before[1]}"
        return f"before {end}" if self.since == ERAS[0].since else f"since {begin}, before {end}"


def of(version: Release) -> Era:
    return (
        [era for era in ERAS if era.since <= version][-1] if version >= ERAS[0].since else ERAS[0]
    )


def readings(mask: int, before: Release | None = None) -> list[Reading]:
    """The readings in all eras that the mask fits. If it fits none, bits without a name are
    ignored; if it still fits none, all eras count."""
    eras = [era for era in ERAS if before is None or era.since < before]
    fitting = [era for era in eras if era.fits(mask)]
    nearly = fitting or [era for era in eras if era.fits(era.known(mask))]
    found: list[Reading] = []
    for era in nearly or eras:
        words, end = era.words(mask), _end(era)
        if found and found[-1].words == words and found[-1].before == era.since:
            found[-1] = Reading(words, found[-1].since, end)
        else:
            found.append(Reading(words, era.since, end))
    return found


def fits(mask: int, before: Release) -> bool:
    return any(era.fits(mask) for era in ERAS if era.since < before)


def _end(era: Era) -> Release | None:
    at = ERAS.index(era) + 1
    return ERAS[at].since if at < len(ERAS) else None


# Combinations by their definitions, the larger ones first, as the kernel's log shows them.
_OLD_COMBINED = (
    ("GFP_HIGHUSER_MOVABLE", "WAIT IO FS HARDWALL HIGHMEM MOVABLE"),
    ("GFP_HIGHUSER", "WAIT IO FS HARDWALL HIGHMEM"),
    ("GFP_USER", "WAIT IO FS HARDWALL"),
    ("GFP_TEMPORARY", "WAIT IO FS RECLAIMABLE"),
    ("GFP_KERNEL", "WAIT IO FS"),
    ("GFP_NOFS", "WAIT IO"),
    ("GFP_ATOMIC", "HIGH"),
    ("GFP_NOIO", "WAIT"),
)
_RECLAIM = "DIRECT_RECLAIM KSWAPD_RECLAIM"
_COMBINED = (
    ("GFP_TRANSHUGE", "DIRECT_RECLAIM IO FS HARDWALL HIGHMEM MOVABLE COMP NOMEMALLOC NOWARN"),
    ("GFP_TRANSHUGE_LIGHT", "IO FS HARDWALL HIGHMEM MOVABLE COMP NOMEMALLOC NOWARN"),
    ("GFP_HIGHUSER_MOVABLE", f"{_RECLAIM} IO FS HARDWALL HIGHMEM MOVABLE"),
    ("GFP_HIGHUSER", f"{_RECLAIM} IO FS HARDWALL HIGHMEM"),
    ("GFP_USER", f"{_RECLAIM} IO FS HARDWALL"),
    ("GFP_KERNEL_ACCOUNT", f"{_RECLAIM} IO FS ACCOUNT"),
    ("GFP_KERNEL", f"{_RECLAIM} IO FS"),
    ("GFP_NOFS", f"{_RECLAIM} IO"),
    ("GFP_ATOMIC", "HIGH ATOMIC KSWAPD_RECLAIM"),
    ("GFP_NOIO", _RECLAIM),
    ("GFP_NOWAIT", "KSWAPD_RECLAIM"),
)
_TEMPORARY = (("GFP_TEMPORARY", f"{_RECLAIM} IO FS RECLAIMABLE"),)
# The kernels of these releases give each page of a user process this bit besides.
_POISON = (
    (
        "GFP_HIGHUSER_MOVABLE",
        f"{_RECLAIM} IO FS HARDWALL HIGHMEM MOVABLE SKIP_KASAN_POISON",
    ),
)
# 2973d8229b78 ("mm: discard __GFP_ATOMIC"), 6.3
_WITHOUT_ATOMIC = tuple((name, parts.replace("HIGH ATOMIC ", "HIGH ")) for name, parts in _COMBINED)
# 16f5dfbc851b ("gfp: include __GFP_NOWARN in GFP_NOWAIT"), 6.6
_QUIET_NOWAIT = tuple(
    (name, "KSWAPD_RECLAIM NOWARN" if name == "GFP_NOWAIT" else parts)
    for name, parts in _WITHOUT_ATOMIC
)


def _era(since: Release, in_order: str, combined: tuple[tuple[str, str], ...]) -> Era:
    """From the names of the bits, the lowest first; `-` is a bit without one."""
    flags = {name: 1 << at for at, name in enumerate(in_order.split()) if name != "-"}
    table: gfp.Table = [
        (sum(flags[part] for part in parts.split()), name)
        for name, parts in combined
        if all(part in flags for part in parts.split())
    ]
    return Era(since, flags, [*table, *((bit, f"__GFP_{name}") for name, bit in flags.items())])


_MIDDLE = "NORETRY MEMALLOC COMP ZERO NOMEMALLOC HARDWALL THISNODE"
_OLD = f"DMA HIGHMEM DMA32 MOVABLE WAIT HIGH IO FS COLD NOWARN REPEAT NOFAIL {_MIDDLE} RECLAIMABLE"
_LOW = "DMA HIGHMEM DMA32 MOVABLE RECLAIMABLE HIGH IO FS"
_SPLIT = f"{_LOW} COLD NOWARN REPEAT NOFAIL {_MIDDLE} ATOMIC"
_RETRIES = f"{_LOW} COLD NOWARN RETRY_MAYFAIL NOFAIL {_MIDDLE} ATOMIC ACCOUNT"
_HIGHER = "WRITE NOWARN RETRY_MAYFAIL NOFAIL NORETRY MEMALLOC COMP NOMEMALLOC HARDWALL THISNODE"
_NEW = f"{_LOW} ZERO ATOMIC {_RECLAIM} {_HIGHER} ACCOUNT"

ERAS = (
    # 8f4fc071b192 ("gfp: add __GFP_NOACCOUNT"), 4.1; before 3.16 the bit was __GFP_KMEMCG
    _era((2, 6), f"{_OLD} KMEMCG NOTRACK NO_KSWAPD OTHER_NODE WRITE", _OLD_COMBINED),
    _era((4, 1), f"{_OLD} NOACCOUNT NOTRACK NO_KSWAPD OTHER_NODE WRITE", _OLD_COMBINED),
    _era(
        (4, 4),
        f"{_SPLIT} NOACCOUNT NOTRACK DIRECT_RECLAIM OTHER_NODE WRITE KSWAPD_RECLAIM",
        _TEMPORARY + _COMBINED,
    ),
    # a9bb7e620efd ("memcg: only account kmem allocations marked as __GFP_ACCOUNT"), 4.5
    _era(
        (4, 5),
        f"{_SPLIT} ACCOUNT NOTRACK DIRECT_RECLAIM OTHER_NODE WRITE KSWAPD_RECLAIM",
        _TEMPORARY + _COMBINED,
    ),
    _era(
        (4, 10),
        f"{_SPLIT} ACCOUNT NOTRACK DIRECT_RECLAIM WRITE KSWAPD_RECLAIM NOLOCKDEP",
        _TEMPORARY + _COMBINED,
    ),
    # dcda9b04713c ("mm, tree wide: replace __GFP_REPEAT by __GFP_RETRY_MAYFAIL"), 4.13
    _era((4, 13), f"{_RETRIES} NOTRACK DIRECT_RECLAIM WRITE KSWAPD_RECLAIM NOLOCKDEP", _COMBINED),
    # 453f85d43fa9 ("mm: remove __GFP_COLD"), d8be75663cec (no more __GFP_NOTRACK), 4.15
    _era(
        (4, 15),
        f"{_RETRIES.replace('COLD', '-')} - DIRECT_RECLAIM WRITE KSWAPD_RECLAIM NOLOCKDEP",
        _COMBINED,
    ),
    _era((4, 18), f"{_RETRIES.replace('COLD', 'WRITE')} {_RECLAIM} NOLOCKDEP", _COMBINED),
    _era((5, 0), f"{_NEW} NOLOCKDEP", _COMBINED),
    # 013bb59dbb7c ("arm64: mte: handle tags zeroing at page allocation time"), c275c5c6d50a
    # ("kasan: disable freed user page poisoning with HW tags"); since 5.18 the meaning of the bits
    # above ZEROTAGS depends on the configuration
    _era((5, 14), f"{_NEW} ZEROTAGS SKIP_KASAN_POISON", _POISON + _COMBINED),
    # f49d9c5bb15c ("kasan, mm: only define ___GFP_SKIP_KASAN_POISON with HW_TAGS")
    _era((5, 18), f"{_NEW} ZEROTAGS", _COMBINED),
    _era((6, 3), f"{_NEW.replace('ATOMIC', '-')} ZEROTAGS", _WITHOUT_ATOMIC),
    _era((6, 6), f"{_NEW.replace('ATOMIC', '-')} ZEROTAGS", _QUIET_NOWAIT),
)
