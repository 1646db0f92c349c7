# SPDX-License-Identifier: Apache-2.0
"""The plugin for krew, which brings plugins of kubectl onto laptops: its manifest, and the archive
of a bundle as krew can unpack it."""

from __future__ import annotations
