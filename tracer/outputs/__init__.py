# SPDX-License-Identifier: Apache-2.0
"""What a person or a program sees of events: sinks and exporters, and what fits a terminal."""
