# SPDX-License-Identifier: Apache-2.0
"""One run: turns of a source become events in time order, for sinks."""
