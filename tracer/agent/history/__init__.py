# SPDX-License-Identifier: Apache-2.0
"""The history of a node: recordings of the last days, and an index of lives and verdicts.

The recordings are the store: what the index says also stands in them, in blocks of their own, so it
can be made again at any time. Only root may read the directory.
"""

from pathlib import Path

DIRECTORY = Path("/var/lib/ktrace")
INDEX = "index.db"
