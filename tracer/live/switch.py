# SPDX-License-Identifier: Apache-2.0
"""A recording that can be started and stopped any number of times during a session.

The recorder behind it always knows the required file header, so each file can be replayed on its
own. It belongs to the session's thread; `start` and `stop` are for other threads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tracer.kernel import limits
from tracer.model.errors import KtraceError
from tracer.recording.files import Beginning, RecordingFile, close_in_order

# The recorder has written its buffer once this has passed twice.
GATHER_NS = 1_000_000_000


class RecordingSwitch:
    """A `tracer.recording.files.Destination`. `path` is the current recording, if any; `on_failure`
    gets the reason why a recording could not continue."""

    resumes = True

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self.path: Path | None = None
        self._on_failure = on_failure
        self._opened: RecordingFile | None = None
        self._file: RecordingFile | None = None
        self._beginning: Beginning | None = None
        self._last = 0
        self._stop = False
        self._stopped_at: int | None = None

    def start(self, path: Path) -> None:
        """Raises `KtraceError` if the file cannot be created."""
        if self._file or self._opened:
            raise KtraceError("the last recording is still being written: try again in a second")
        self._opened = RecordingFile(path)
        self.path = path

    def stop(self) -> None:
        """Everything until now is still written."""
        self.path = None
        self._stop = True

    # Called by the recorder

    @property
    def idle(self) -> bool:
        return self._file is None and self._opened is None

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning, self._last = beginning, now

    def write(self, blocks: bytes, first: int, last: int) -> None:
        self._try(lambda: self._write(blocks, first))

    def tick(self, now: int) -> None:
        self._last = now
        if self._stop:
            self._stop, self._stopped_at = False, now
        # by then the recorder has written its buffer
        if self._stopped_at is not None and now >= self._stopped_at + 2 * GATHER_NS:
            self._stopped_at = None
            self._try(lambda: self._end(now, None))

    def close(self, end: bytes) -> None:
        self._try(lambda: self._end(self._last, end))

    def _write(self, blocks: bytes, first: int) -> None:
        self._begin(first)
        if self._file:
            self._file.write(blocks)

    def _begin(self, now: int) -> None:
        self._last = now
        if self._opened and self._beginning:
            self._file, self._opened = self._opened, None
            self._file.write(self._beginning(now))

    def _end(self, now: int, end: bytes | None) -> None:
        self._begin(now)
        self._close(end)

    def _close(self, end: bytes | None) -> None:
        if self._file:
            file, self._file = self._file, None
            close_in_order(file, end)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._file = self.path = None
            self._on_failure(f"the recording ends here: {limits.reason(error)}")
