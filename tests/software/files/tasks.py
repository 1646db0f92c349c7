# SPDX-License-Identifier: Apache-2.0
"""A celery that gives itself one task as soon as it can do any, over a broker of its own."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery  # type: ignore[import-not-found]
from celery.signals import worker_ready  # type: ignore[import-not-found]

app = Celery("tasks", broker="memory://")
app.conf.broker_connection_retry_on_startup = True


@app.task  # type: ignore[untyped-decorator]
def sleep() -> None:
    time.sleep(1000)


@app.task  # type: ignore[untyped-decorator]
def eat() -> None:
    kept = [bytearray(1 << 20) for _ in range(1 << 20)]
    del kept


@worker_ready.connect  # type: ignore[untyped-decorator]
def begin(**_: Any) -> None:
    name = os.environ.get("TASK")
    if name:
        app.tasks[f"tasks.{name}"].delay()
