# SPDX-License-Identifier: Apache-2.0
"""A process in a network namespace of its own, with an address of each family on its loopback. It
follows orders, one at a time: the functions of a test's own program."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.support.raisers import Follower

# In front of the program, and behind it.
BEGINNING = r"""
import ctypes, fcntl, json, os, signal, socket, struct, sys, time

ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if ctypes.CDLL(None).unshare(0x40000000):
    raise OSError("unshare(CLONE_NEWNET) failed")
V4, V6 = sys.argv[1:3]
name = struct.pack("16s", b"lo")
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
fcntl.ioctl(four, 0x8914, name + struct.pack("H14x", 0x49))  # SIOCSIFFLAGS: up, loopback, running
alias = struct.pack("16s", b"lo:1") + struct.pack("HH4s8x", 2, 0, socket.inet_aton(V4))
fcntl.ioctl(four, 0x8916, alias)  # SIOCSIFADDR
fcntl.ioctl(six, 0x8916, struct.pack("16sIi", socket.inet_pton(10, V6), 128, 1))

def retry(function):
    for _ in range(1000):
        try:
            return function()
        except OSError:  # the address is tentative for a moment
            time.sleep(0.01)
    return function()

def opened(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)

def bound(address, family_of=None):
    end = opened(family_of or address)
    retry(lambda: end.bind((address, 0)))
    return end
"""
END = r"""
print(json.dumps(["done", None]), flush=True)
for line in sys.stdin:
    function, *arguments = json.loads(line)
    try:
        answer = ["done", globals()[function](*arguments)]
    except Exception as error:
        answer = ["failed", repr(error)]
    print(json.dumps(answer), flush=True)
"""


class Peer(Follower):
    """Addresses from the blocks for tests of network devices (RFC 2544, RFC 5180), so that nobody
    else's connections are taken for ours. `program` has the functions."""

    def __init__(self, program: str, directory: Path) -> None:
        file = directory / "peer.py"
        file.write_text(BEGINNING + program + END)
        self.addresses = {
            4: f"198.19.{random.randrange(1, 255)}.{random.randrange(1, 255)}",
            6: f"2001:2::{random.randrange(1, 1 << 16):x}:{random.randrange(1, 1 << 16):x}",
        }
        super().__init__([sys.executable, "-I", "-S", str(file), *self.addresses.values()])
        self.answer("its start")
