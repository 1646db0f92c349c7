# SPDX-License-Identifier: Apache-2.0
"""A recording whose names are attackers': what each would do in a page is to call `attacked`."""

from __future__ import annotations

from pathlib import Path

from tests.unit import records
from tests.unit.recording.test_recording import (
    BEGAN,
    CID,
    PATH,
    SECOND,
    UID,
    metadata,
    part,
    record,
    signal,
)
from tests.unit.records import ancestry, argv, cgroup_path, exe
from tracer.model.names import Container, Names, Pod
from tracer.model.selection import Selection
from tracer.model.turn import Lost, Turn

# What ends an element, an attribute, a string or a comment, and what runs by itself.
ATTACKS = (
    "<script>attacked()</script>",
    "</script><script>attacked()</script>",
    "</style><script>attacked()</script>",
    "</title><svg onload=attacked()>",
    '"><img src=x onerror=attacked()>',
    "'-attacked()-'",
    "javascript:attacked()",
    "<a href=javascript:attacked()>x</a>",
    "<iframe srcdoc='<script>parent.attacked()</script>'>",
    "<style>*{background:url(javascript:attacked())}</style>",
    "<!--<script>",
    "]]><script>attacked()</script>",
    "${attacked()}{{attacked()}}{% raw %}",
    "\\u003cscript\\u003eattacked()",
    "&lt;script&gt;attacked()&lt;/script&gt;",
    '{"$":0}',
    "a\u202egnp.exe",
    "zero\u200bwidth\u2066\ufeff",
    "line\u2028end\u2029\n\r\t\x1b[31m\x00x",
)
FILE = "<img src=x onerror=attacked()>.ktrace"
NODE = "<b onclick=attacked()>node</b>"
COMMS = (b"<script>a()//", b"</script>", b'"><img src=x>', "a\u202eb\u200b".encode())


def hostile(folder: Path) -> Path:
    """A container is killed by a process outside; all of them are called by these names."""
    labels = {f"key{n}{attack}": attack for n, attack in enumerate(ATTACKS)}
    names = Names(
        {UID: Pod(UID, ATTACKS[3], ATTACKS[0], labels)},
        {CID: Container(CID, ATTACKS[8], ATTACKS[4], UID, 10)},
    )
    processes = [
        records.pack(
            "process",
            **{"process": n, "pid": 10 * n, "tid": 10 * n, "cgroup": 5 if n == 1 else 6},
            **{"comm": COMMS[2 * n - 1], "pid_in_pod": 1, "pid_level": int(n == 1)},
            **exe(f"/bin/{ATTACKS[n].replace('/', '')}"),
            **argv(*ATTACKS[:-1]),
            **ancestry((5, "<svg onload=a>"), (1, "</script>")),
        )
        for n in (1, 2)
    ]
    ended = records.pack(
        "exit", time=BEGAN + 20, process_process=1, process_pid=10, process_tid=10, status=9
    )
    parts = [
        part("cgroup", records.pack("cgroup", time=BEGAN + 1, cgroup=5, **cgroup_path(PATH))),
        part("cgroup", records.pack("cgroup", cgroup=6, **cgroup_path(f"/{ATTACKS[5]}"))),
        part("process", *processes),
        part("signal", *(signal(BEGAN + n, number) for n, number in ((10, 15), (12, 9)))),
        part("exit", ended),
    ]
    turns = [
        Turn(BEGAN, names=names, answered=[5, 6]),
        Turn(BEGAN + 30, parts),
        Turn(BEGAN + SECOND, lost=Lost(BEGAN + 40, {"signal": 3})),
        Turn(BEGAN + 2 * SECOND, last=True),
    ]
    target = folder / FILE
    record(turns, target, metadata(selection=Selection(everything=True), node=NODE))
    return target
