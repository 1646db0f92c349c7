# SPDX-License-Identifier: Apache-2.0
"""`make wheel`: a wheel for other systems than this one."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.architecture import wanted
from deploy.wheel.build import build


def main(into: str) -> None:
    wheel = build(wanted(), Path(into), lambda words: print(f"wheel: {words}", flush=True))
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
