# SPDX-License-Identifier: Apache-2.0
"""The OOM killer ended the container's first process: what these verdicts share."""

from __future__ import annotations

from tracer.model.units import size
from tracer.probes.oom.decoder import KillBody, Part
from tracer.why.common.phrases import who, whose_limit
from tracer.why.entry import SIGKILL, Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# As a share of the limit: a victim that held less did not use it up.
SMALL_PART = 4


def fatal_oom(story: Story) -> Entry[KillBody] | None:
    """The OOM kill of the container's first process, alone or with its group."""
    ooms = [entry for entry in story.of("oom") if _hit(story, entry)]
    return ooms[-1] if ooms else None


def _hit(story: Story, entry: Entry[KillBody]) -> bool:
    if story.end is None or entry.boot_ns > story.end.boot_ns:
        return False
    return any(story.is_init(p) for p in (entry.event.about, *entry.body["members"]))


def unknown_limit(body: KillBody) -> tuple[str, ...]:
    """The doubt that the owner of the limit is not known."""
    if body["scope"] == "system" or body["limit_of"] is not None:
        return ()
    because = body.get("unknown_because") or "the kernel log alone tells it"
    return (f"whose limit it was is not known: {because}",)


def remedy_of_child(body: KillBody) -> str:
    if body["scope"] == "system":
        return (
            "the node is overcommitted: give the pods memory requests that are true; a limit of the"
            " container's that is higher would not have helped"
        )
    if unknown_limit(body) or body["limit_of"] == "other":
        return (
            "find out whose limit it was before any is raised: the kernel log's report names it"
            " (oom-kill:constraint=…, oom_memcg=…), and ktrace oom those of other containers"
        )
    return (
        "raise resources.limits.memory or run fewer workers; to let the whole container end with"
        " such a child set memory.oom.group (kubelet: singleProcessOOMKill: false, cgroup v2)"
    )


def hints_of(body: KillBody) -> tuple[str, ...]:
    """For a victim that held only a small part of the memory: killing it frees little."""
    facts, limit = body["victim"].facts, body["limit_bytes"]
    had = [facts["anon_bytes"], facts["file_bytes"], facts["shmem_bytes"]]
    own = [amount for amount in had if amount is not None]
    if body["scope"] != "cgroup" or limit is None or body["members"] or len(own) < len(had):
        return ()
    if sum(own) * SMALL_PART > limit:
        return ()
    return (
        f"the process that was killed had only {size(sum(own))} of the {size(limit)}: the rest is"
        " other processes', or files in memory (/dev/shm, tmpfs, an emptyDir with medium: Memory),"
        " which no kill frees",
    )


def what_counted(body: KillBody) -> str:
    """`; pause 300 KiB and tmpfs left by an earlier life 24 MiB counted there, too`: other memory
    charged to the pod. Empty if not known."""
    memory = body.get("memory")
    if not memory:
        return ""
    victim = body["victim"].container
    others = [
        (part["container"] or _unnamed(part), part["usage_bytes"])
        for part in memory["parts"]
        if victim is None or part["container_id"] != victim.id
    ]
    left = min(memory["left"]["shmem_bytes"] or 0, _rest(body, memory["parts"]))
    others.append(("tmpfs left by an earlier life", left))
    told = [f"{name} {size(amount)}" for name, amount in others if amount]
    return f"; counted there, too: {', '.join(told)}" if told else ""


def _rest(body: KillBody, parts: list[Part]) -> int:
    """Memory charged to the pod at that moment but to none of its parts. Excludes what the victim
    itself has left since."""
    used = sum(part["usage_bytes"] or 0 for part in parts)
    return max((body["usage_bytes"] or 0) - used, 0)


def _unnamed(part: Part) -> str:
    """`pause` for the pod's sandbox, which has no name and no limit; else the beginning of the
    cgroup's name."""
    if part["limit_bytes"] is None and part["container_id"]:
        return "pause"
    return str(part["cgroup"])[:12]


def judged(
    story: Story, oom: Entry[KillBody], verdict_id: str, remedy: str, more: str = ""
) -> Verdict:
    assert story.end is not None
    doubts = unknown_limit(oom.body)
    if story.end.body["signal"] is None or story.end.body["signal"]["number"] != SIGKILL:
        doubts = (
            *doubts,
            f"yet its end was another: {story.end.body['meaning']}",
        )
    body = oom.body
    anon = size(body["victim"].facts["anon_bytes"])
    used = f", with {anon} of its own memory" if anon else ""
    return Verdict(
        verdict_id,
        f"out of memory: {who(story.init)} was killed because {whose_limit(body)} was used up{used}"
        f"{more}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (oom, story.end),
        remedy,
        doubts,
        hints=hints_of(body),
    )
