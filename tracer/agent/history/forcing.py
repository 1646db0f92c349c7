# SPDX-License-Identifier: Apache-2.0
"""Has what was written on the disk, without holding up who writes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tracer.recording.files import RecordingFile


class Forcing:
    """Forces files to the disk, in a thread of its own. `done` gets the failure of each attempt, or
    None."""

    def __init__(self, done: Callable[[OSError | None], None]) -> None:
        self._done = done
        self._changed = threading.Condition()
        self._file: RecordingFile | None = None
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="history sync", daemon=True)

    def force(self, file: RecordingFile) -> None:
        """Never blocks."""
        if not self._thread.is_alive():
            self._thread.start()
        with self._changed:
            self._file = file
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits for the present attempt, and makes no other: the file is about to be closed."""
        with self._changed:
            self._file = None
            while self._busy:
                self._changed.wait()

    @property
    def idle(self) -> bool:
        with self._changed:
            return self._file is None and not self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._file is None:
                    self._changed.wait()
                file, self._file, self._busy = self._file, None, True
            failure = None
            try:
                file.sync()
            except OSError as error:
                failure = error
            self._done(failure)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
