# SPDX-License-Identifier: Apache-2.0
"""What is said of an end, or of what hurt, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tracer.why.entry import Entry


class Certainty(str, Enum):
    """certain: the kernel said so. likely: the order of events says so, or something is missing.
    unknown: said plainly."""

    CERTAIN = "certain"
    LIKELY = "likely"
    UNKNOWN = "unknown"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Verdict:
    """`id` is for programs and does not change; `doubts` says why the certainty is no higher.
    `reasons` are the ids of what is likely to have been behind it (see tracer.why.reasons), `hints`
    what is known of the program that runs, if its name is true (see tracer.why.words). `harm` is
    how many connections or attempts were hurt; of those that hurt connections the worst comes
    first, however specific they are."""

    id: str
    sentence: str
    certainty: Certainty
    evidence: tuple[Entry, ...]
    remedy: str
    doubts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    harm: int = 0
