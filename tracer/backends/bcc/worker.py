# SPDX-License-Identifier: Apache-2.0
"""The process in which BCC works: it compiles, loads and attaches for tracer.backends.bcc.

    python worker.py DIRECTORY SOCKET        started by programs.py alone

BCC contains a compiler of a hundred megabytes. This process frees it by ending once everything is
attached; programs and links are handed over as descriptors. BCC writes its messages to standard
error. If BCC crashes or hangs, only this process does.

Requests and answers are lines of JSON, one answer a request. An answer with `descriptors` sends
that many through the socket. DIRECTORY is BCC's Python package. It is loaded by path, because
another package may have its name.
"""

import base64
import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
from typing import Any

# enum bpf_prog_type, include/uapi/linux/bpf.h
TYPES = {"kprobe": 2, "kretprobe": 2, "tracepoint": 5, "raw_tracepoint": 17}
_PR_SET_PDEATHSIG = 1


def main() -> None:
    directory, descriptor = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # all other output is for people
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, though both may get them
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    worker = Worker(load_package(directory), socket.socket(fileno=int(descriptor)))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # BCC raises plain Exception
            answer = {"error": str(error), "errno": getattr(error, "errno", None)}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # BCC would detach everything


def load_package(directory: str) -> Any:
    origin = os.path.join(directory, "__init__.py")
    found = importlib.util.spec_from_file_location(
        "bcc", origin, submodule_search_locations=[directory]
    )
    assert found and found.loader
    package = importlib.util.module_from_spec(found)
    sys.modules["bcc"] = package
    found.loader.exec_module(package)
    return package


class Worker:
    """Each method is a request."""

    def __init__(self, bcc: Any, out: socket.socket) -> None:
        self._bcc = bcc
        self._out = out

    def compile(self, code: str, flags: list[str]) -> dict[str, Any]:
        """Compiles all programs of a text."""
        module = self._bcc.BPF(text=code, cflags=flags)
        library = self._bcc.lib
        count = library.bpf_num_functions(module.module)
        names = [library.bpf_function_name(module.module, number) for number in range(count)]
        programs = {n.decode(): base64.b64encode(module.dump_func(n)).decode() for n in names}
        return {"programs": programs, "version": library.bpf_module_kern_version(module.module)}

    def attach(
        self, name: str, kind: str, target: str, instructions: str, version: int
    ) -> dict[str, Any]:
        program = self._load(name, TYPES[kind], base64.b64decode(instructions), version)
        link = self._link(program, kind, target, name)
        socket.send_fds(self._out, [b"."], [program, link])
        os.close(program)
        os.close(link)
        return {"descriptors": 2}

    def _load(self, name: str, kind: int, instructions: bytes, version: int) -> int:
        program: int = self._bcc.lib.bcc_prog_load(
            kind, name.encode()[:15], instructions, len(instructions), b"GPL", version, 0, None, 0
        )
        if program < 0:
            raise _failed(f"{name} was not loaded")
        return program

    def _link(self, program: int, kind: str, target: str, name: str) -> int:
        library = self._bcc.lib
        place = target.encode()
        if kind == "raw_tracepoint":
            link = library.bpf_attach_raw_tracepoint(program, place)
        elif kind == "tracepoint":
            link = library.bpf_attach_tracepoint(program, *place.split(b"/"))
        else:
            event = b"ktrace_%d_%s" % (os.getpid(), name.encode())
            entry_or_return = int(kind == "kretprobe")
            link = library.bpf_attach_kprobe(program, entry_or_return, event, place, 0, 0)
        if link < 0:
            error = _failed(f"{name} was not attached to {target}")
            os.close(program)
            raise error
        return int(link)


class Failed(Exception):
    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)
        self.errno = number


def _failed(what: str) -> Failed:
    number = ctypes.get_errno()
    return Failed(f"{what}: {os.strerror(number)}", number)


if __name__ == "__main__":
    main()
