# SPDX-License-Identifier: Apache-2.0
"""`make truth CLUSTER=1`: the incidents of the table happen in a real cluster, and what ktrace says
of each is judged.

Prints what was said against what is true, as a confusion table. A whole run writes the table into
docs/verdicts.md. TRUTH="oom grace" chooses rows with one of these words in their name, and writes
nothing. Ends with 1 if a row is not right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from tests.cluster.acceptance import stage
from tests.cluster.bed import Bed
from tests.cluster.incidents import ROWS, Row
from tests.support.judging import Outcome, Table, say

TABLE = Table("make truth CLUSTER=1", ROWS, ("incident", "`kubectl` shows"))


def staged(rows: Sequence[Row]) -> Iterator[Outcome[Row]]:
    with Bed(say) as bed:
        yield from stage(bed, rows, say)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make truth needs root: it loads BPF programs and starts containers")
    sys.exit(TABLE.judge(sys.argv[1:], staged))
