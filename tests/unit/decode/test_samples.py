# SPDX-License-Identifier: Apache-2.0
"""Samples of every kind of text, as data: `expect` must be said, `never` must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracer.decode import kinds
from tracer.decode.kind import THIS_KERNEL, FlagNames
from tracer.decode.text import decode

NOBODY = FlagNames([], THIS_KERNEL)
SAMPLES = [
    json.loads(line)
    for line in Path(__file__).with_name("samples.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: f"{one['kind']}: {one['text'][:40]!r}")
def test_a_sample(sample: dict[str, str]) -> None:
    said = "\n".join(decode(sample["text"], NOBODY) or []) + "\n"
    assert [word for word in sample["expect"] if word not in said] == [], said
    assert [word for word in sample["never"] if word in said] == [], said


def test_every_module_is_a_kind() -> None:
    assert len(kinds.kinds()) + len(kinds.blocks()) >= len(kinds.names())
    ranks = [kind.rank for kind in kinds.kinds()]
    assert ranks == sorted(ranks)


def test_a_kind_is_found_because_its_file_is_there() -> None:
    folder = Path(kinds.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert set(kinds.names()) == files
