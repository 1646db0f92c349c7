# SPDX-License-Identifier: Apache-2.0
"""A kubectl that answers by rules: `rules` beside it has them, and `calls` is what it was asked.

The first rule whose `when` is found in the words decides. It may say `out`, `err` and `code`; and
for ktrace in a pod `until_end`, to go on until the other end says so, and `exit`, ktrace's code.
"""

import json
import os
import re
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    words = sys.argv[1:]
    asked = " ".join(words)
    given = sys.stdin.read() if "create" in words else ""
    with open(f"{HERE}/calls", "a") as calls:
        calls.write(json.dumps({"words": words, "given": given}) + "\n")
    with open(f"{HERE}/rules") as rules:
        rule = next((one for one in json.load(rules) if re.search(one["when"], asked)), None)
    if rule is None:
        print(f"the test has no answer to {asked}", file=sys.stderr)
        return 1
    time.sleep(rule.get("seconds", 0))
    out = rule.get("out", "")
    if given and not out and not rule.get("err"):
        manifest = json.loads(given)
        manifest["metadata"]["namespace"] = "ktrace"
        out = json.dumps(manifest)
    sys.stdout.buffer.write(out.encode())
    sys.stdout.flush()
    token = next((one.partition("=")[2] for one in words if one.startswith("--token=")), None)
    if token and rule.get("ready", True):
        tell(f"\x1e{token} ready")
    if rule.get("err"):
        tell(rule["err"])
    if rule.get("until_end"):
        while b"end" not in (said := os.read(0, 100)) and said:
            pass
    if "stays" in rule:
        signal.pause()
    if token and "exit" in rule:
        tell(f"\x1e{token} exit {rule['exit']}")
        if rule["exit"]:
            tell(f"command terminated with exit code {rule['exit']}")
    return int(rule.get("code", rule.get("exit", 0)))


def tell(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
