# SPDX-License-Identifier: Apache-2.0
"""Addresses of sockets as text."""

from __future__ import annotations

import ipaddress

import pytest

from tracer.model.address import MAPPED, address_text, with_port


@pytest.mark.parametrize("text", ["10.0.0.1", "0.0.0.0", "2001:db8::1", "::", "::1", "fe80::ff"])
def test_an_address_is_written_as_usual(text: str) -> None:
    packed = ipaddress.ip_address(text).packed
    assert address_text(packed if len(packed) == 16 else MAPPED + packed) == text


def test_a_port_is_told_apart_from_the_address() -> None:
    assert with_port("10.0.0.1", 80) == "10.0.0.1:80"
    assert with_port("fd00::1", 80) == "[fd00::1]:80"
    assert with_port("fd00::1", "–") == "[fd00::1]:–"
