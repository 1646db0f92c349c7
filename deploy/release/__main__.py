# SPDX-License-Identifier: Apache-2.0
"""`make release`: all published files, from a clean checkout."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.release.build import release


def main(into: str) -> None:
    release(Path(into), lambda words: print(f"release: {words}", flush=True))
    for file in sorted(Path(into).iterdir()):
        print(f"{file.stat().st_size / 1e6:8.1f} MB  {file}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
