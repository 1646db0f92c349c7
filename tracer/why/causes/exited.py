# SPDX-License-Identifier: Apache-2.0
"""The container's first process ended by itself, with its own exit code."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.kubectl import logs
from tracer.why.common.phrases import code_words, executes_others, who
from tracer.why.entry import SIGKILL
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_REMEDIES = {
    0: "if it should go on running, its command has nothing more to do: a server must stay in the"
    " foreground; or it was told to end in its own way, by a client or an API: its log says so",
    126: "the file is not executable in the image: chmod +x, the right architecture, a file system"
    " without noexec",
    127: "the command is not in the image or not in its PATH; a script may name a missing"
    " interpreter",
}


def _judge(story: Story) -> Verdict | None:
    if story.end is None or story.end.body["exit_code"] is None:
        return None
    code = story.end.body["exit_code"]
    killed = story.deadly(SIGKILL)
    doubts = ("yet a SIGKILL had reached it before",) if killed is not None else ()
    return Verdict(
        "exited",
        f"ended by itself: {who(story.init)} called exit({code}){code_words(code, story.init)}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (*([killed] if killed else []), story.end),
        _remedy(story, code),
        doubts,
    )


def _remedy(story: Story, code: int) -> str:
    log = f"the reason is in its log: {logs(story.place)}"
    if code in (126, 127) and not executes_others(story.init):
        return log
    return _REMEDIES.get(code, log)


CAUSE = Cause(40, _judge, rests_on=frozenset(("exits",)))
