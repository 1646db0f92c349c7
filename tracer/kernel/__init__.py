# SPDX-License-Identifier: Apache-2.0
"""Reads the running kernel: files in /proc and /sys, its log, its types."""
