# SPDX-License-Identifier: Apache-2.0
"""Names of the running kernel's enumerators, whose numbers move between releases.

They are in /sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst in the kernel's tree). That file has
megabytes of types, so this module searches for the one enum instead of decoding all.
"""

from __future__ import annotations

import struct

VMLINUX = "/sys/kernel/btf/vmlinux"
_MAX_BYTES = 64 << 20
_ENUM, _ENUM64 = 6, 19
_SIGNED = 1 << 31
# by kind and whether the values are signed; an ENUM64's are written as two halves, the lower first
_ENTRIES = {
    (_ENUM, False): struct.Struct("=II"),
    (_ENUM, True): struct.Struct("=Ii"),
    (_ENUM64, False): struct.Struct("=IQ"),
    (_ENUM64, True): struct.Struct("=Iq"),
}
_TYPE = struct.Struct("=III")


def enum_names(enum: str, path: str = VMLINUX) -> dict[int, str]:
    """The enumerators of `enum` by number; of several with one number, the first name. Empty if the
    kernel has no such enum, or no BTF."""
    try:
        with open(path, "rb") as file:
            return _search(file.read(_MAX_BYTES), enum.encode())
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        return {}


def _search(data: bytes, enum: bytes) -> dict[int, str]:
    magic, _, _, header, type_at, type_bytes, text_at, text_bytes = struct.unpack_from(
        "=HBBIIIII", data
    )
    if magic != 0xEB9F:
        return {}
    text_at += header
    name = data.find(b"\0" + enum + b"\0", text_at, text_at + text_bytes)
    if name < 0:
        return {}
    needle = struct.pack("=I", name + 1 - text_at)
    at, end = header + type_at, header + type_at + type_bytes
    while (at := data.find(needle, at, end)) >= 0:
        if (at - header - type_at) % 4 == 0:
            _, info, size = _TYPE.unpack_from(data, at)
            entry = _ENTRIES.get((info >> 24 & 0x1F, bool(info & _SIGNED)))
            count = info & 0xFFFF
            if entry and count and size in (1, 2, 4, 8):
                return _enumerators(data, at + _TYPE.size, entry, count, text_at)
        at += 1
    return {}


def _enumerators(
    data: bytes, at: int, entry: struct.Struct, count: int, text_at: int
) -> dict[int, str]:
    names: dict[int, str] = {}
    for index in range(count):
        name, value = entry.unpack_from(data, at + index * entry.size)
        start = text_at + name
        names.setdefault(value, data[start : data.index(b"\0", start)].decode())
    return names
