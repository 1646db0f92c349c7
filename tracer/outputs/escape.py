# SPDX-License-Identifier: Apache-2.0
"""Text from containers, made safe for a terminal.

The container chooses comm, arguments, paths and names. Unprintable characters (control bytes,
escape sequences, line ends, direction overrides, invalid UTF-8) become escapes; lone spaces stay.
"""

from __future__ import annotations


def escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    short = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code)
    if short:
        return short
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
