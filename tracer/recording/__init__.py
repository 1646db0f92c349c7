# SPDX-License-Identifier: Apache-2.0
"""Recordings: a session's turns in a file. docs/recording-format.md describes the format."""

SUFFIX = ".ktrace"
