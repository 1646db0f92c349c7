# SPDX-License-Identifier: Apache-2.0
"""One run: what a source of turns tells, made into events in their order, for sinks."""
