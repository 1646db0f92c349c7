# SPDX-License-Identifier: Apache-2.0
"""Runs kubectl as a subprocess: commands, JSON answers and errors.

Answers are untrusted: anyone who may write to the API can choose labels, messages and names in
them. Answers are bounded, and printed errors are escaped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tracer.model.errors import KtraceError, MissingPrivilege

MAX_ANSWER = 256 << 20
MAX_COMPLAINT = 600
ANSWER_SECONDS = 30.0
_LACKING = re.compile(
    r'cannot (?P<verb>[a-z]+) resource "(?P<resource>[\w./-]+)" in API group "[\w.-]*"'
    r'(?: in the namespace "(?P<namespace>[^"]*)"| at the cluster scope)?'
)


class Refused(KtraceError):
    """kubectl ended with an error. `words` is its message, in one line."""

    def __init__(self, message: str, words: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.words = words

    @property
    def not_found(self) -> bool:
        return "(NotFound)" in self.words

    @property
    def no_namespace(self) -> bool:
        """Whether there is none to make anything in, or soon none any more."""
        return self.not_found or "because it is being terminated" in self.words

    @property
    def decided(self) -> bool:
        """Whether the API server itself refused, so that nothing was done."""
        return bool(re.search(r"\((NotFound|Forbidden|Invalid|Unauthorized)\)", self.words))


class Forbidden(Refused, MissingPrivilege):
    """The API server denied an operation; `lacks` holds verb, resource and namespace."""

    exit_code = MissingPrivilege.exit_code

    def __init__(self, words: str, lacks: tuple[str, str, str]) -> None:
        verb, resource, namespace = lacks
        where = f" in namespace {namespace}" if namespace else " in the whole cluster"
        option = f" -n {namespace}" if namespace else ""
        super().__init__(
            f"no right to {verb} {resource}{where}",
            words,
            f"kubectl auth can-i {verb} {resource}{option}; a role has to name both",
        )
        self.lacks = lacks


class Kubectl:
    """`options` select the cluster and the user."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        program = shutil.which("kubectl")
        if program is None:
            raise KtraceError(
                "there is no kubectl on the PATH",
                "install it, or run ktrace on the node itself: docs/in-a-pod.md",
            )
        self.program = program
        self._options = list(options)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._abandoned = False

    def command(self, *words: str) -> list[str]:
        """Options come first, because everything after `--` is for the remote command."""
        return [self.program, *self._options, *words]

    @contextmanager
    def running(self, *words: str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
        """One that ends with the block at the latest. It does not get Ctrl-C: who asked decides
        what that means."""
        with self._lock:
            if self._abandoned:
                raise KtraceError(f"kubectl {words[0]} is not asked any more")
            process = subprocess.Popen(self.command(*words), start_new_session=True, **pipes)
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._running.discard(process)

    def abandon(self) -> None:
        """Kills the running ones and keeps threads from starting others, which would outlive us."""
        with self._lock:
            self._abandoned = True
            for process in self._running:
                process.kill()

    def get(self, *words: str) -> Any:
        """The answer of `kubectl get`, or None if the object does not exist."""
        try:
            return self.ask("get", *words, "--output=json")
        except Refused as refusal:
            if refusal.not_found:
                return None
            raise

    def ask(self, *words: str, given: Any = None, seconds: float = ANSWER_SECONDS) -> Any:
        """A JSON answer. Raises `Refused` with kubectl's error."""
        import orjson

        answer = self.run(*words, given=None if given is None else orjson.dumps(given))
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise KtraceError(
                f"kubectl {words[0]} answered with what is no JSON: {_line(_text(answer))[:80]}",
                "is that kubectl a very old one, or a wrapper? kubectl version --client",
            ) from error

    def run(
        self, *words: str, given: bytes | None = None, seconds: float = ANSWER_SECONDS
    ) -> bytes:
        """kubectl's output."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin = subprocess.PIPE if given is not None else subprocess.DEVNULL
            with self.running(*words, stdin=stdin, stdout=out, stderr=err) as process:
                try:
                    process.communicate(given, timeout=seconds)
                except subprocess.TimeoutExpired:
                    raise KtraceError(
                        f"kubectl {words[0]} has not answered for {seconds:.0f} s",
                        "does kubectl get nodes answer?",
                    ) from None
            if process.returncode:
                raise refusal(words[0], _start_of(err, MAX_COMPLAINT * 4))
            if out.seek(0, 2) > MAX_ANSWER:
                raise KtraceError(
                    f"kubectl {words[0]} answered with more than {MAX_ANSWER >> 20} MiB",
                    "choose with -n, -l or --node",
                )
            return _start_of(out, MAX_ANSWER)

    def may(self, verb: str, resource: str, namespace: str | None) -> bool | None:
        """Whether the API server allows it; None if it does not say."""
        where = [f"--namespace={namespace}"] if namespace else []
        try:
            return b"yes" in self.run("auth", "can-i", verb, resource, *where)
        except Refused as refused:
            return False if refused.words in ("", "no") else None
        except KtraceError:
            return None


def refusal(what: str, complaint: bytes) -> Refused:
    """The error for kubectl's complaint."""
    words = _line(_text(complaint))
    found = _LACKING.search(words)
    if found:
        return Forbidden(words, (found["verb"], found["resource"], found["namespace"] or ""))
    short = re.sub(r"^(error|Error from server \(\w+\)|Error from server): ", "", words)
    remedy = None
    if re.search("Unable to connect|connection refused|did you specify the right host", words):
        remedy = "is the cluster there? kubectl cluster-info; --context chooses another"
    elif re.search("unknown (shorthand )?flag|unknown command", words):
        remedy = "is that kubectl a very old one? kubectl version --client"
    elif "provide credentials" in words or "(Unauthorized)" in words:
        remedy = "log in as for kubectl get pods"
    return Refused(f"kubectl {what}: {short or 'it failed without a word'}", words, remedy)


def _line(text: str) -> str:
    """The last lines joined into one: warnings and retries come first."""
    lines = [line for line in text.splitlines() if line.strip() and not _is_noise(line)]
    return " ".join(" ".join(lines[-3:]).split())[:MAX_COMPLAINT]


def _is_noise(line: str) -> bool:
    """Whether it is kubectl's own log, such as `E1126 15:01:03.123456 memcache.go:265] …`."""
    return bool(re.match(r"[IWEF]\d{4} ", line) or line.startswith("Warning: "))


def _start_of(file: Any, size: int) -> bytes:
    file.seek(0)
    return bytes(file.read(size))


def _text(said: bytes) -> str:
    return said.decode("utf-8", "backslashreplace")
