# SPDX-License-Identifier: Apache-2.0
"""Signals at the end of a command, when nothing is left for them to end."""

from __future__ import annotations

import signal


def ignore(*signals: int) -> None:
    """From now on. Of a signal that comes while its handler is being replaced, Python would say in
    a traceback that it has none; it waits until that is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
