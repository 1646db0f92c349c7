# SPDX-License-Identifier: Apache-2.0
"""The end of a container as kubectl describe, get -o yaml, docker and crictl inspect show it:
reason, code and so on, each in a line of its own or all in one object."""

from __future__ import annotations

import re

from tracer.decode import codes
from tracer.decode.kind import Answer, Blocks, Kernel, Kind
from tracer.decode.kinds import start_error
from tracer.decode.lines import Line
from tracer.decode.signals import NUMBERS

_FACT = re.compile(
    r"[{\s-]{0,64}\"?(?P<key>Reason|Exit ?Code|exit_code|OOMKilled|Signal)\"?\s{0,4}:\s{0,64}"
    r"\"?(?P<value>-?[\w.+-]{1,64})\"?,?\s{0,8}\Z",
    re.IGNORECASE,
)
# Lines in between that belong to the same container.
_BESIDE = re.compile(
    r"[{}\s-]{0,64}\"?(?:State|Last State|lastState|terminated|status|Running|Paused|"
    r"Restarting|Dead|Pid|Error|Message|Started|Finished|StartedAt|FinishedAt|containerID|createdAt|Ready|image|imageRef)"
    r"\"?\s{0,4}:[^\n]{0,4096}",
    re.IGNORECASE,
)
_IN_ONE_LINE = re.compile(
    r"\bOOMKilled\"?[:= ]{1,3}true\b|\breason\"?[:= ]{1,3}\"?(?P<reason>[A-Za-z]{4,40})\b",
    re.IGNORECASE,
)
_CODE_IN_LINE = re.compile(r"Exit_?Code\"?[:= ]{1,3}(?P<code>-?\d{1,12})\b", re.IGNORECASE)

_REASONS = {
    "oomkilled": "a process of the container was killed by the kernel's OOM killer",
    "containerstatusunknown": "nobody saw how it ended: the kubelet did not find the container any"
    " more, and writes 137 itself",
    "error": "the container's first process ended with an error",
    "completed": "the container's first process ended well",
    "starterror": "the container could not be started; no process of it ran",
    "containercannotrun": "the container could not be started; no process of it ran",
    "runcontainererror": "the container could not be started; no process of it ran",
    "createcontainererror": "the container could not be made; no process of it ran",
    "createcontainerconfigerror": "a ConfigMap, Secret or key of its configuration is missing",
    "deadlineexceeded": "activeDeadlineSeconds is over: the kubelet stopped it",
    "evicted": "the kubelet stopped the pod: the node lacked memory, disk or process ids, or the"
    " pod used more local storage than its own limit; its message says which",
    "crashloopbackoff": "it has ended again and again; the kubelet waits before it starts it anew",
    "imagepullbackoff": "its image cannot be fetched; nothing of it has run",
    "errimagepull": "its image cannot be fetched; nothing of it has run",
    "nodelost": "the node does not answer: nobody knows whether it ended",
    "nodeshutdown": "the node was shut down",
    "terminated": "the node was shut down",
}
# Reasons for waiting; they stand beside the previous state.
_WAITING = {"crashloopbackoff", "imagepullbackoff", "errimagepull", "createcontainerconfigerror"}


class _ContainerState:
    def __init__(self, _kernel: Kernel) -> None:
        self.swallows = False
        self._facts: dict[str, str] = {}
        self._why: Answer = []  # its message, explained

    def take(self, line: Line, answers: list[Answer]) -> bool:
        text = line.text
        if len(text) <= 256 and (found := _FACT.match(text)):
            key = found["key"].lower().replace(" ", "").replace("_", "")
            value = found["value"]
            if key == "signal" and not value.isdecimal():
                return False
            waiting = self._facts.get("reason", "").lower() in _WAITING
            if key in self._facts and not (key == "reason" and waiting):
                self.end(answers)
            self._facts[key] = value
            return True
        told, code = _IN_ONE_LINE.search(text), _CODE_IN_LINE.search(text)
        if told and code and (not told["reason"] or told["reason"].lower() in _REASONS):
            self.end(answers)
            reason = told["reason"] or "OOMKilled"
            answers.append(_explain({"reason": reason, "exitcode": code["code"]}))
            return True
        if self._facts and _BESIDE.match(text):
            if why := start_error.explain(text):
                self._why = why
            return True
        self.end(answers)
        return False

    def pause(self, answers: list[Answer]) -> None:
        self.end(answers)

    def end(self, answers: list[Answer]) -> None:
        facts, self._facts = self._facts, {}
        why, self._why = self._why, []
        if facts and (answer := _explain(facts)):
            answers.append([*answer, *why])


def _explain(facts: dict[str, str]) -> Answer:
    reason = facts.get("reason", "")
    known = _REASONS.get(reason.lower())
    if facts.get("oomkilled", "").lower() == "true":
        reason, known = "OOMKilled", _REASONS["oomkilled"]
    code = _whole(facts.get("exitcode"))
    if code is None:
        number = _whole(facts.get("signal"))
        if number is not None and 1 <= number <= 64 and reason.lower() in ("", "error"):
            return codes.of_signal(number)
        return [f"{reason}: {known}"] if known else []
    if reason.lower() == "oomkilled":
        return _oom_killed(code)
    if reason.lower() == "containerstatusunknown":
        return [f"exit code {code}, reason {reason}: {known}"]
    lines = codes.exit_code(code)
    if known and reason.lower() not in ("error", "completed"):
        lines.insert(0, f"reason {reason}: {known}")
    return lines


def _oom_killed(code: int) -> Answer:
    head = f"exit code {code}, reason OOMKilled: {_REASONS['oomkilled']}"
    if code == 137:
        lines = [f"{head}, with SIGKILL"]
    else:
        lines = [f"{head}; not its first, which ended with {codes.exit_code(code)[0]}"]
    return [
        *lines,
        "whose limit it was, the container's, its pod's or the node's, the kernel log says:"
        " dmesg | ktrace decode, or ktrace why POD",
    ]


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,12}", text, re.ASCII) else None


# A reason alone, or behind the count of ready containers as in kubectl get pods.
_ALONE = re.compile(
    r"(?:[\w./-]{1,253} {1,64}){0,2}(?:\d{1,4}/\d{1,4} {1,32})?(?:Init:)?"
    r"(?P<reason>[A-Z][A-Za-z]{4,40})"
    r"(?P<rest> {1,32}\d[^\n]{0,200})?"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = _ALONE.fullmatch(line.text) if len(line.text) <= 512 else None
    known = _REASONS.get(found["reason"].lower()) if found else None
    if not found or not known or (found["rest"] and not re.search(r"\d/\d", line.text)):
        return None
    if line.text == "Terminated":  # alone, it is a shell's word as well
        return [*codes.of_signal(NUMBERS["TERM"]), f"as a pod's reason in Kubernetes: {known}"]
    return [f"{found['reason']}: {known}"]


KIND = Kind(_read, rank=13)
BLOCK = Blocks(_ContainerState, rank=60)
