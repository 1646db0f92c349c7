# SPDX-License-Identifier: Apache-2.0
"""Output of events for people and programs: sinks, exporters, and fitting text to a terminal."""
