# SPDX-License-Identifier: Apache-2.0
"""Addresses of sockets as text."""

from __future__ import annotations

import socket
from functools import lru_cache

# The first bytes of an IPv6 address that stands for one of IPv4.
MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=4096)
def address_text(address: bytes) -> str:
    """A `kt_address` in the usual notation."""
    if address[:12] == MAPPED:
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def with_port(address: str, port: int | str | None) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
