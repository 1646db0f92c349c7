# SPDX-License-Identifier: Apache-2.0
"""The plugin for krew, the package manager of kubectl plugins: its manifest, and a bundle's archive
that krew can unpack."""

from __future__ import annotations
