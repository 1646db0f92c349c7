# SPDX-License-Identifier: Apache-2.0
"""Recordings: what a session was told, kept in a file. docs/recording-format.md is the format."""

SUFFIX = ".ktrace"
