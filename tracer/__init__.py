# SPDX-License-Identifier: Apache-2.0
"""ktrace: catches what the kernel does to pods, and says to which pod and why.

`tracer.read(path)` reads a recording; docs/python.md describes it. The names in `__all__` are
stable; every other name here is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from os import PathLike

    from tracer.model.errors import BadRecording, KtraceError
    from tracer.model.names import Container, Pod
    from tracer.reading import Event, Loss, Recording, Verdict

__all__ = [
    "BadRecording",
    "Container",
    "Event",
    "KtraceError",
    "Loss",
    "Pod",
    "Recording",
    "Verdict",
    "read",
]


def read(
    path: str | PathLike[str],
    *,
    pod: str | Iterable[str] = (),
    namespace: str | Iterable[str] = (),
    container: str | Iterable[str] = (),
    selector: str | Iterable[str] = (),
    sender_pod: str | Iterable[str] = (),
    pid: int | Iterable[int] = (),
    begin: str | datetime | None = None,
    end: str | datetime | None = None,
) -> Recording:
    """Opens a recording. Needs no privilege and no Linux.

    The selectors are those of `ktrace replay`: `pod="shop/web-*"`, `selector="app=web"`. Of several
    values of one selector, one must match; of labels, all. `begin` and `end` are a datetime, a time
    such as `2026-11-21T04:07:04Z`, or `+2m` after the beginning; `end` itself is left out. Without
    any, everything recorded is read.

    Raises `BadRecording` if the file is no recording or cannot be read at all.
    """
    from tracer.reading import Recording, wanted

    chosen = wanted(pod, namespace, container, selector, sender_pod, pid)
    return Recording(path, chosen, begin, end)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for: a command needs few of them."""
    if name in __all__:
        from tracer.model import errors, names

        for module in (errors, names):
            if name in vars(module):
                return getattr(module, name)
        from tracer import reading

        return getattr(reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
