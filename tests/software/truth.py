# SPDX-License-Identifier: Apache-2.0
"""`make truth SOFTWARE=1`: what happens to real programs in real pods, and what ktrace says of it.

Prints what was said against what is true, as a confusion table. A whole run writes the table of
rows into docs/verdicts.md. TRUTH="nginx java" chooses rows with one of these words in their name,
and writes nothing. Ends with 1 if a row is not right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from tests.software.build import software
from tests.software.rows import ROWS, Row
from tests.software.staging import stage
from tests.support.judging import Outcome, Table, say

TABLE = Table("make truth SOFTWARE=1", ROWS, ("what happens", "the runtime says"))


def staged(rows: Sequence[Row]) -> Iterator[Outcome[Row]]:
    yield from stage(rows, software(say), say)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make truth needs root: it loads BPF programs and starts containers")
    sys.exit(TABLE.judge(sys.argv[1:], staged))
