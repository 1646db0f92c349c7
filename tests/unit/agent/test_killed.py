# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of anything: what the history had taken is there, and it goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.agent.test_history import Keeping
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.query import History, wants

ROUNDS = 6
# Recordings end every few blocks, so that the end of one is hit, too.
WRITER = """
import sys, time
from tests.unit.agent.test_history import NOW, Keeping, Path, death
from tracer.agent.history import store
from tracer.agent.history.bounds import Bounds
store.MIN_PART, store.MAX_PART = 0, 20_000
keeping = Keeping(Path(sys.argv[1]), Bounds(1e9, 1 << 30, 1.0))
for number in range(int(sys.argv[2]), 1 << 30):
    keeping.store.tell(death(number, NOW + number), keeping.now)
    keeping.second()
    if number % 3 == 0:
        keeping.written()
        print(number, flush=True)
"""


def test_kill_in_the_middle_of_anything(tmp_path: Path) -> None:
    chance = random.Random(4711)
    taken = 0
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(taken + 1)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            taken = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        taken = int(rest[-1]) if rest else taken
        history = History(tmp_path)
        found = {row.life.pod for row in history.rows(wants(None), 0, running=False)}
        history.close()
        missing = [n for n in range(1, taken + 1) if f"web-{n}" not in found]
        assert missing == []
    keeping = Keeping(tmp_path, Bounds(1e9, 1 << 30, 1.0))
    keeping.second()
    keeping.close()
    assert keeping.said == [], "nothing needs to be made again"
    assert keeping.store.state.unrecorded == 0
