# SPDX-License-Identifier: Apache-2.0
"""`make bundle`: the bundle of a wheel, as a directory and packed."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.bundle.build import build, checksums, pack


def main(wheel: str, into: str) -> None:
    directory = Path(into)
    root = build(Path(wheel), directory, lambda words: print(f"bundle: {words}", flush=True))
    packed = pack(root)
    checksums(directory)
    print(f"{packed}: {packed.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
