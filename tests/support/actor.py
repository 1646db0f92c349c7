# SPDX-License-Identifier: Apache-2.0
"""A process that follows orders: the tests' senders and targets (see tests.support.raisers).

It runs alone, without the packages of the tests, on Python's standard library only. Each line on
standard input is a JSON list, a function's name and its arguments; each answer is a line,
`["done", value]` or `["failed", words]`. All signals are blocked from the beginning, so a target
stays alive and takes each signal only when ordered.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import queue
import resource
import signal
import sys
import threading

TYPE_CHECKING = False  # as in typing, whose import takes long on an emulated processor
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = {
    "x86_64": {"tkill": 200, "tgkill": 234, "exit": 60, "timer_create": 222, "timer_settime": 223},
    "aarch64": {"tkill": 130, "tgkill": 131, "exit": 93, "timer_create": 107, "timer_settime": 110},
}[os.uname().machine]
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
CLONE_NEWPID = 0x20000000
PROT_NONE = 0
EVERY_SIGNAL = signal.valid_signals()

# Machine code that the processor refuses. Only x86 refuses to divide by zero.
REFUSED = {
    "x86_64": {
        "divide": bytes.fromhex("31c999b801000000f7f9c3"),  # xor ecx,ecx; cdq; mov eax,1; idiv ecx
        "undefined": bytes.fromhex("0f0b"),  # ud2
        "breakpoint": bytes.fromhex("ccc3"),  # int3; ret
    },
    "aarch64": {
        "undefined": bytes.fromhex("00000000"),  # udf #0
        "breakpoint": bytes.fromhex("000020d4"),  # brk #0
    },
}[os.uname().machine]

children: list[int] = []
threads: list[Thread] = []
gate = (-1, -1)


def main() -> None:
    global gate
    gate = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, EVERY_SIGNAL)
    # Python ignores these two; most programs do not
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if "--pid-namespace" in sys.argv:
        become_init()
    print(json.dumps(["done", None]), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = ["done", globals()[name](*arguments)]
        except Exception as error:
            answer = ["failed", f"{name}{tuple(arguments)}: {error!r}"]
        print(json.dumps(answer), flush=True)


def become_init() -> None:
    """Makes the process PID 1 of a new PID namespace; its parent stays to report its pid
    outside."""
    check(LIBC.unshare(CLONE_NEWPID))
    child = os.fork()
    if not child:
        check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        argv = [word for word in sys.orig_argv if word != "--pid-namespace"]
        os.execv(os.readlink("/proc/self/exe"), argv)
    print(json.dumps(["done", child]), flush=True)
    sys.stdin.close()
    os.waitpid(child, 0)
    os._exit(0)


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def repeat(times: int, name: str, *arguments: Any) -> None:
    function = globals()[name]
    for _ in range(times):
        function(*arguments)


# Raising signals


def kill(pid: int, number: int) -> None:
    os.kill(pid, number)


def kill_from_init_to_all(number: int) -> None:
    """kill(-1, …) reaches every process of the namespace. Never runs in the machine's own
    namespace."""
    with open("/proc/self/status") as status:
        levels = next(line for line in status if line.startswith("NSpid")).split()[1:]
    if os.getpid() != 1 or len(levels) < 2:
        raise RuntimeError("kill(-1) is only for PID 1 of a pid namespace of its own")
    os.kill(-1, number)


def tkill(tid: int, number: int) -> None:
    check(LIBC.syscall(CALLS["tkill"], tid, number))


def tgkill(pid: int, tid: int, number: int) -> None:
    check(LIBC.syscall(CALLS["tgkill"], pid, tid, number))


def sigqueue(pid: int, number: int) -> None:
    check(LIBC.sigqueue(pid, number, ctypes.c_void_p(23)))


def sigqueue_refused(pid: int, number: int) -> None:
    """Expects a full queue at the target."""
    try:
        sigqueue(pid, number)
    except BlockingIOError:
        return
    raise RuntimeError("the kernel took the signal")


def pidfd_send_signal(pid: int, number: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def write_file(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def write_to_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.write(writer, b"x")
    except BrokenPipeError:
        pass
    os.close(writer)


def one_shot_timer(number: int, nanoseconds: int) -> None:
    """timer_create(2) with SIGEV_SIGNAL."""
    event = (ctypes.c_int32 * 16)()
    event[2] = number  # after the 8 bytes of sigev_value: sigev_signo, then sigev_notify
    timer = ctypes.c_int()
    check(LIBC.syscall(CALLS["timer_create"], 1, ctypes.byref(event), ctypes.byref(timer)))
    spec = (ctypes.c_long * 4)(0, 0, 0, nanoseconds)
    check(LIBC.syscall(CALLS["timer_settime"], timer.value, 0, ctypes.byref(spec), None))


def alarm_in(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)


def burn_in(timer: str, seconds: float) -> None:
    """Uses the CPU until a timer on its CPU time has expired."""
    signal.setitimer(getattr(signal, timer), seconds)
    while not signal.sigpending():
        pass


def send_among_alarms(alarms: int, number: int) -> list[int]:
    """Sends itself `number`, which it ignores, at full speed until a fast timer has expired
    `alarms` times. Returns the number of signals sent and of expiries. The timer's signal is
    blocked, and the kernel lets the timer expire again only after the last signal was taken."""
    ignore(number)
    own, sent, rung = os.getpid(), 0, 0
    signal.setitimer(signal.ITIMER_REAL, 0.00002, 0.00002)
    while rung < alarms:
        for _ in range(16):
            os.kill(own, number)
        sent += 16
        rung += signal.sigtimedwait([signal.SIGALRM], 0) is not None
    signal.setitimer(signal.ITIMER_REAL, 0)
    rung += signal.sigtimedwait([signal.SIGALRM], 0) is not None
    return [sent, rung]


# Receiving them


def take(seconds: float = 10.0) -> list[int] | None:
    """The next signal's number, code, sender's pid and uid; None if none comes in time."""
    told = signal.sigtimedwait(EVERY_SIGNAL, seconds)
    return told and [told.si_signo, told.si_code, told.si_pid, told.si_uid]


def default(*numbers: int) -> None:
    """Unblocks these and resets them to their default actions."""
    for number in numbers:
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def ignore(*numbers: int) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


# Changing its identity


def rename(name: str) -> None:
    """Sets the calling thread's comm."""
    check(LIBC.prctl(PR_SET_NAME, os.fsencode(name)))


def set_uid(uid: int) -> None:
    os.setuid(uid)


def limit_pending_signals(most: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (most, hard))


def control_terminal(path: str) -> None:
    """Takes `path` as its controlling terminal: an actor leads its own session."""
    os.open(path, os.O_RDWR)


def execute(program: str, *argv: str) -> None:
    os.execv(program, argv)


class Thread:
    """A thread that follows orders. It runs only when there is one."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[tuple[Callable[..., Any], Any]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        assert thread.native_id is not None
        self.tid = thread.native_id

    def do(self, name: str, *arguments: Any) -> Any:
        self.orders.put((globals()[name], arguments))
        answer = self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        while True:
            function, arguments = self.orders.get()
            try:
                self.answers.put(function(*arguments))
            except Exception as error:
                self.answers.put(error)


def start_thread() -> int:
    threads.append(Thread())
    return threads[-1].tid


def in_thread(tid: int, name: str, *arguments: Any) -> Any:
    return next(t for t in threads if t.tid == tid).do(name, *arguments)


# Children


def fork(times: int, name: str, *arguments: Any) -> list[int]:
    """Forks children that wait for `go`, then call a function and exit with 0."""
    for _ in range(times):
        child = os.fork()
        if not child:
            check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
            os.read(gate[0], 1)
            _last_act(name, *arguments)
        children.append(child)
    return children[-times:]


def fork_deep(levels: int, name: str, *arguments: Any) -> int:
    """Forks a chain of descendants, the last of which behaves as the children of `fork`. Returns
    its pid."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        children.append(child)
        return int.from_bytes(os.read(reader, 4), "little")
    for _ in range(levels - 1):
        check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
    os.write(writer, os.getpid().to_bytes(4, "little"))
    os.read(gate[0], 1)
    _last_act(name, *arguments)


def fork_bound(times: int, number: int) -> list[int]:
    """Forks children that get `number` when this process dies. They stay until standard input is
    closed."""
    reader, writer = os.pipe()
    for _ in range(times):
        child = os.fork()
        if not child:
            check(LIBC.prctl(PR_SET_PDEATHSIG, number))
            os.write(writer, b"x")
            signal.sigwait([number])
            while os.read(0, 1):
                pass
            os._exit(0)
        os.read(reader, 1)
        children.append(child)
    return children[-times:]


def _last_act(name: str, *arguments: Any) -> NoReturn:
    try:
        globals()[name](*arguments)
    finally:
        os._exit(0)


def go(times: int = 1) -> None:
    os.write(gate[1], b"x" * times)


def reap(times: int) -> list[list[int]]:
    """Waits for that many children; returns their pids and wait statuses."""
    return [list(os.waitpid(children.pop(0), 0)) for _ in range(times)]


def spin() -> None:
    while True:
        pass


def reap_any() -> list[int]:
    pid, status = os.wait()
    children.remove(pid)
    return [pid, status]


def idle() -> None:
    while True:
        signal.pause()


def change_directory(path: str) -> None:
    os.chdir(path)


# Ends


def leave(code: int) -> None:
    os._exit(code)


def abort_with_core() -> None:
    """Dies of SIGABRT with the smallest possible core file in the working directory."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    write_file("/proc/self/coredump_filter", "0")
    default(signal.SIGABRT)
    os.abort()


def leader_leaves_first(leader: int, last: int, whole: bool) -> None:
    """The leading thread exits with `leader`, then another one with `last`: by exit_group(2) if
    `whole`, else as a thread does."""

    def follow() -> None:
        while _state_of_leader() != "Z":
            os.sched_yield()
        if whole:
            os._exit(last)
        LIBC.syscall(CALLS["exit"], last)

    threading.Thread(target=follow).start()
    LIBC.syscall(CALLS["exit"], leader)


def leader_leaves_and_a_thread_stays(code: int) -> None:
    threading.Thread(target=idle).start()
    LIBC.syscall(CALLS["exit"], code)


def start_and_end_threads(times: int) -> None:
    for _ in range(times):
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()


def threads_leave_together(times: int, leader: int, others: int) -> None:
    """All threads exit separately at the same moment, with these codes."""
    started = threading.Barrier(times + 1)
    gate_reader, gate_writer = os.pipe()

    def follow() -> None:
        started.wait()
        os.read(gate_reader, 1)
        LIBC.syscall(CALLS["exit"], others)

    for _ in range(times):
        threading.Thread(target=follow).start()
    started.wait()
    os.write(gate_writer, b"x" * times)
    LIBC.syscall(CALLS["exit"], leader)


def _state_of_leader() -> str:
    with open("/proc/self/stat") as file:
        return file.read().rpartition(") ")[2][0]


def fault(kind: str) -> None:
    """Causes a fault."""
    if kind == "unmapped":
        ctypes.string_at(8)
    elif kind == "forbidden":
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        LIBC.mmap.restype = ctypes.c_void_p
        ctypes.string_at(LIBC.mmap(None, ctypes.c_size_t(1), PROT_NONE, private, -1, None), 1)
    elif kind == "beyond the file":
        file = os.memfd_create("short")
        os.truncate(file, mmap.PAGESIZE)
        page = mmap.mmap(file, mmap.PAGESIZE)
        os.truncate(file, 0)
        page[0]
    else:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(REFUSED[kind])
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        ctypes.CFUNCTYPE(None)(address)()


def eat_memory(megabytes: int) -> None:
    """Touches every page of that much memory."""
    memory = mmap.mmap(-1, megabytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1


if __name__ == "__main__":
    main()
