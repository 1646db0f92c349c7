# SPDX-License-Identifier: Apache-2.0
"""Combines ktrace in pods, one on each node, into one stream here.

Each is a `kubectl exec` with its own pipes. One loop reads all of them, forwards Ctrl-C, and sends
heartbeats to the other ends (see tracer/cli/leash.py).
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from tracer.kubectl.client import Forbidden, Kubectl, refusal
from tracer.kubectl.home import CONTAINER, Home
from tracer.model.interrupts import ignore
from tracer.outputs.escape import escape

BEAT_SECONDS = 5.0
# After this long without data, the other end, the connection or this laptop was away.
SILENT_SECONDS = 30.0
# How long ktrace may take to end in order.
ENDING_SECONDS = 15.0
READ_BYTES = 1 << 16
# The longest line, for a stream without line ends.
MAX_LINE = 4 << 20
MAX_COMPLAINT = 4096
# Under nohup, SIGHUP stays ignored.
ENDING = tuple(
    one
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN
)


class ReaderGone(Exception):
    """The reader of our output has closed it."""


def on_end(handler: Any) -> None:
    for one in ENDING:
        signal.signal(one, handler)


class Sink(Protocol):
    """Consumes the nodes' output. `enough` says that no more is wanted."""

    enough: bool

    def take(self, node: str, data: bytes) -> None: ...

    def idle(self) -> None:
        """Called when no data came for a moment, and at least ten times a second."""

    def gone(self, node: str) -> None:
        """No more data will come from this node."""

    def close(self) -> None: ...


class End:
    """One `kubectl exec`. `code` is ktrace's exit code there; None if it sent none."""

    def __init__(self, kubectl: Kubectl, home: Home, words: Sequence[str], ready: bool) -> None:
        self.home = home
        self.node = home.node
        self.code: int | None = None
        self.ready = False
        self.heard = time.monotonic()
        self.complaint = b""
        self._token = os.urandom(8).hex()
        self._said = b""
        asked = [*words, f"--ready-file=/dev/shm/ktrace-ready-{self._token}"] if ready else words
        self.process = subprocess.Popen(
            kubectl.command(
                *("exec", "--stdin", f"--namespace={home.namespace}", home.pod),
                *(f"--container={CONTAINER}", "--"),
                *("ktrace", "leash", f"--token={self._token}", *asked),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is forwarded as a message
        )

    def tell(self, words: bytes) -> None:
        assert self.process.stdin
        with suppress(OSError):
            os.write(self.process.stdin.fileno(), words)

    def hear(self, data: bytes) -> list[str]:
        """The lines of standard error that are for the user."""
        self._said += data
        *lines, self._said = self._said.split(b"\n")
        self._said = self._said[:MAX_LINE]
        return [words for line in lines if (words := self._heard(line)) is not None]

    def rest(self) -> list[str]:
        return self.hear(b"\n") if self._said else []

    def _heard(self, line: bytes) -> str | None:
        mark = b"\x1e" + self._token.encode() + b" "
        if line.startswith(mark):
            word, _, value = line[len(mark) :].partition(b" ")
            self.ready = self.ready or word == b"ready"
            if word == b"exit" and value.isdigit():
                self.code = int(value)
            return None
        # kubectl's own messages about the exit code
        if line.startswith(b"command terminated with "):
            return None
        self.complaint = (self.complaint + line + b"\n")[-MAX_COMPLAINT:]
        return escape(line.decode("utf-8", "backslashreplace"))


class Streams:
    """Runs until all have ended. `say` gets the lines for the user; `on_ready` is called once, when
    all have attached their probes."""

    def __init__(
        self,
        ends: Sequence[End],
        sink: Sink,
        say: Callable[[str, str], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._ends = list(ends)
        self._sink = sink
        self._say = say
        self._on_ready = on_ready
        self._stopping: float | None = None
        self._given_up = False
        self._selector = selectors.DefaultSelector()
        self._out = select.poll()
        self._out.register(1, 0)
        self._open: dict[End, int] = {}
        self.codes: dict[str, int] = {}  # of each node, when all have ended

    def run(self) -> int:
        """Returns the highest exit code of the nodes. Raises KeyboardInterrupt at a second
        Ctrl-C."""
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        previous = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        before = [(one, signal.signal(one, self._on_signal)) for one in ENDING]
        self._selector.register(wake, selectors.EVENT_READ)
        for end in self._ends:
            for stream in (end.process.stdout, end.process.stderr):
                assert stream
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, end)
            assert end.process.stdin
            os.set_blocking(end.process.stdin.fileno(), False)
            self._open[end] = 2
        try:
            self._loop(wake)
            self._sink.close()
            self.codes = {end.node: self._result(end) for end in self._ends}
            return max(self.codes.values())
        except BrokenPipeError as error:
            raise ReaderGone from error
        finally:
            signal.set_wakeup_fd(previous)
            if not self._given_up:
                for one, handler in before:
                    signal.signal(one, handler)
            self._selector.close()
            for end in self._ends:
                end.process.kill()
                end.process.communicate()
            os.close(wake)
            os.close(woken)

    def stop(self) -> None:
        """Asks all to end in order."""
        if self._stopping is None:
            self._stopping = time.monotonic()
            for end in self._open:
                end.tell(b"end\n")

    def _loop(self, wake: int) -> None:
        told_ready = False
        beat = time.monotonic()
        while self._open:
            for key, _ in self._selector.select(0.1):
                if key.fd == wake:
                    os.read(wake, 64)
                else:
                    self._read(key)
            self._sink.idle()
            if self._reader_is_gone():
                raise BrokenPipeError
            if self._sink.enough:
                self.stop()
            now = time.monotonic()
            if now - beat >= BEAT_SECONDS:
                beat = now
                for end in self._open:
                    end.tell(b"\n")
            self._look_for_silence(now)
            if not told_ready and all(end.ready for end in self._ends):
                told_ready = True
                self._on_ready()

    def _read(self, key: selectors.SelectorKey) -> None:
        end: End = key.data
        stream: Any = key.fileobj
        data = os.read(stream.fileno(), READ_BYTES)
        end.heard = time.monotonic()
        if stream is end.process.stdout:
            if data:
                self._sink.take(end.node, data)
            else:
                self._sink.gone(end.node)
        else:
            for line in end.hear(data) if data else end.rest():
                self._say(end.node, line)
        if not data:
            self._selector.unregister(stream)
            self._open[end] -= 1
            if not self._open[end]:
                del self._open[end]

    def _look_for_silence(self, now: float) -> None:
        for end in list(self._open):
            silent = now - end.heard > SILENT_SECONDS
            late = self._stopping is not None and now - self._stopping > ENDING_SECONDS
            if silent or late:
                why = f"nothing was heard from it for {now - end.heard:.0f} s"
                self._say(end.node, f"ktrace: {why}: the connection is given up")
                end.process.kill()
                end.heard = now

    def _result(self, end: End) -> int:
        with suppress(subprocess.TimeoutExpired):
            end.process.wait(ENDING_SECONDS)
        if end.code is not None:
            return end.code
        if b"No such command 'leash'" in end.complaint:
            self._say(end.node, "  the ktrace in that pod is older than this plugin: --image NAME")
        elif end.process.returncode != 130:  # 130: Ctrl-C before there was anything to end
            lost = refusal("exec", end.complaint)
            where = f"{end.home.namespace}/{end.home.pod}"
            gone = f"the connection to pod {where} was lost"
            forbidden = isinstance(lost, Forbidden)
            self._say(end.node, f"ktrace: {lost.message if forbidden else gone}")
            if lost.remedy:
                self._say(end.node, f"  {lost.remedy}")
            if forbidden:
                return lost.exit_code
        return end.process.returncode if end.process.returncode > 0 else 1

    def _reader_is_gone(self) -> bool:
        """Whether our output's reader is gone. A pipe without a reader shows it even when there is
        nothing to write."""
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in self._out.poll(0))

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._stopping is not None:
            ignore(*ENDING)  # nothing disturbs the way out
            self._given_up = True
            raise KeyboardInterrupt
        self.stop()
