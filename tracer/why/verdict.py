# SPDX-License-Identifier: Apache-2.0
"""The statement about an end or about harm, and its certainty."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tracer.model.kubernetes import Told
from tracer.why.entry import Entry


class Certainty(str, Enum):
    """certain: the kernel said so. likely: inferred from the order of events, or something is
    missing. unknown: the verdict says so."""

    CERTAIN = "certain"
    LIKELY = "likely"
    UNKNOWN = "unknown"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Verdict:
    """`id` is stable, for programs. `doubts` say why the certainty is no higher. `reasons` are the
    ids of likely reasons (see tracer.why.reasons). `hints` are facts about the running program, if
    its name is true (see tracer.why.words). `harm` is the number of connections or attempts that
    were hurt; verdicts with harm are ordered by it, whatever their specificity. `told` is what
    Kubernetes says of the pod, if it was asked. `headline` is as in `Cause`, never empty once the
    engine has it."""

    id: str
    sentence: str
    certainty: Certainty
    evidence: tuple[Entry, ...]
    remedy: str
    doubts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    harm: int = 0
    told: Told | None = None
    headline: str = ""
