# SPDX-License-Identifier: Apache-2.0
"""What `tracer` promises to programs, compared with api.txt beside this file.

A line that is new is an addition; one that is gone or different breaks somebody's program.
`python -m tests.unit.reading.test_api` writes the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import tracer

API = Path(__file__).with_name("api.txt")


def test_the_promised_api() -> None:
    assert list(api()) == API.read_text(encoding="utf-8").splitlines()


def test_nothing_else_is_public() -> None:
    """Besides modules, which an import of anything below makes attributes."""
    for name in set(dir(tracer)) - set(tracer.__all__) - {"annotations", "Any", "TYPE_CHECKING"}:
        assert name.startswith("__") or inspect.ismodule(getattr(tracer, name)), name


def api() -> Iterator[str]:
    for name in sorted(tracer.__all__):
        value = getattr(tracer, name)
        if inspect.isclass(value):
            bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
            yield f"class {name}({bases})"
            yield from (f"  {line}" for line in members(value))
        else:
            yield f"def {name}{signature(value)}"


def members(of: type) -> Iterator[str]:
    if "__dataclass_fields__" in vars(of):
        yield f"__init__{signature(of)}"
    for name, value in sorted(vars(of).items()):
        if name.startswith("_") and name not in ("__iter__", "__getitem__", "__len__"):
            continue
        if isinstance(value, property):
            assert value.fget is not None
            told = inspect.signature(value.fget).return_annotation
            yield f"{name}: {getattr(told, '__name__', told)}"
        elif inspect.isfunction(value):
            yield f"def {name}{signature(value)}"


def signature(of: Callable[..., object]) -> str:
    """With annotations as they are written."""
    return str(inspect.signature(of)).replace("'", "").replace("collections.abc.", "")


if __name__ == "__main__":
    API.write_text("".join(f"{line}\n" for line in api()), encoding="utf-8")
