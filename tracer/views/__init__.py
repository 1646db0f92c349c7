# SPDX-License-Identifier: Apache-2.0
"""Sinks: what a person or a program sees of the events."""
