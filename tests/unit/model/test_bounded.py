# SPDX-License-Identifier: Apache-2.0
"""Tables that are bounded in bytes, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from tests.support.growth import growth
from tracer.model import event as module
from tracer.model.bounded import CHANCES, ENTRY_BYTES, Table, size_of
from tracer.model.cgroup import CgroupIdentity
from tracer.model.event import Place, Process
from tracer.model.names import Pod

MOST = 100_000


def table(most: int = MOST) -> Table[int, str]:
    return Table(most, size_of)


def test_the_oldest_goes_first() -> None:
    kept = table()
    gone = [key for n in range(1000) for key, _ in kept.keep(n, "x" * 1000)]
    assert gone == list(range(1000 - len(kept)))
    assert list(kept) == list(range(1000 - len(kept), 1000))
    assert 80 < len(kept) < 100


def test_what_is_weighed_stays_though_all_others_are_spared() -> None:
    """Whoever has put it there goes on with it."""
    kept = table()
    for n in range(1000):
        gone = kept.keep(n, "x" * 1000, lambda key, value: True)
        assert n in kept and len(gone) < 2
        assert kept.weigh(n, lambda key, value: True) == []
    assert 80 < len(kept) < 100


def test_what_is_used_goes_last() -> None:
    kept = table()
    for n in range(1000):
        kept.keep(n, "x" * 1000)
        assert kept.touch(0) == "x" * 1000
    assert kept.touch(1) is None
    assert (0 in kept, 1 in kept) == (True, False)


def test_what_is_spared_goes_only_if_there_is_nothing_else() -> None:
    kept = table()
    for n in range(1000):
        kept.keep(n, "x" * 1000, lambda key, _: key < 10)
    assert set(range(10)) < kept.keys()
    for n in range(1000, 2000):
        kept.keep(n, "x" * 1000, lambda key, _: True)
    assert 80 < len(kept) < 100


def test_looking_for_what_may_go_has_an_end() -> None:
    asked = []

    def spares(key: int, _: str) -> bool:
        asked.append(key)
        return True

    kept = table(10_000_000)
    for n in range(9000):
        kept.keep(n, "x" * 1000)
    kept.keep(9000, "x" * 10_000_000, spares)
    assert len(asked) == CHANCES


def test_sizes_follow_what_they_are_of() -> None:
    kept = table()
    for text in ("x" * 5000, "x", "x" * 9000, ""):
        kept.keep(1, text)
        assert 0 <= kept.bytes - size_of(1, text) - ENTRY_BYTES <= 64
    kept.drop(1)
    kept.drop(1)
    assert (kept.bytes, len(kept)) == (0, 0)


def test_one_that_is_too_large_stands_alone() -> None:
    kept = table()
    kept.keep(1, "x")
    assert kept.keep(2, "x" * MOST) == [(1, "x")]
    assert list(kept) == [2]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: f"{n}" * 50,
        lambda n: f"{n}\U0001f600",
        lambda n: [f"{n}", f"{n} again"] * 3,
        lambda n: {f"{n}{k}": f"{n}" for k in range(9)},
        lambda n: (n << 40, frozenset((bytes([n & 255]) * 40,))),
        lambda n: None,
    ],
)
def test_bytes_are_what_is_really_taken(make: Callable[[int], object]) -> None:
    kept: Table[int, object] = Table(MOST, size_of)
    with growth() as grown:
        for n in range(1000, 4000):
            kept.keep(n, make(n))
    assert grown() < 1.3 * MOST


# JSON of processes and places


def processes(count: int) -> list[Process]:
    pod = Pod("u", "shop", "web-0", {"app": "web"})
    places = [Place(n, "/x", CgroupIdentity("u"), pod) for n in range(count)]
    return [Process(n, n, "app", argv=["x" * 1000], place=place) for n, place in enumerate(places)]


def test_only_so_much_json_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JSON", 100_000)
    monkeypatch.setattr(module, "_kept", module._Kept())
    every = processes(500)
    told = [orjson.dumps([one.json(), one.json()]) for one in every]
    with growth() as grown:
        again = [orjson.dumps([one.json(), one.json()]) for one in every]
        assert again == told
        del again
    assert grown() < 150_000
    assert every[-1]._json is not None
    assert every[0]._json is None


def test_who_is_frugal_keeps_less_json(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = module._Kept()
    monkeypatch.setattr(module, "_kept", kept)
    module.keep_json(100_000)
    for one in processes(500):
        orjson.dumps([one.json(), one.json()])
    assert 50_000 < kept.bytes <= 100_000
