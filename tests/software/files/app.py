# SPDX-License-Identifier: Apache-2.0
"""What gunicorn and uwsgi serve: an application that takes its time where it is asked to."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from typing import Any


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(1000)
    elif path == "/crash":
        ctypes.string_at(1)
    elif path == "/eat":
        kept = [bytearray(1 << 20) for _ in range(1 << 20)]
        del kept
    elif path == "/leave":
        os._exit(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine\n"]
