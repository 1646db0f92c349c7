# SPDX-License-Identifier: Apache-2.0
"""Measurements of ktrace beside its peers. Times are reported, never asserted."""
