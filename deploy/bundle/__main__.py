# SPDX-License-Identifier: Apache-2.0
"""`make bundle`: the bundle of the wheel in a directory, written beside the wheel, also packed."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.architecture import wanted
from deploy.bundle.build import build, checksums, pack
from deploy.wheel.build import file_name


def main(into: str) -> None:
    directory, architecture = Path(into), wanted()
    wheel = directory / file_name(architecture)
    root = build(wheel, architecture, directory, lambda what: print(f"bundle: {what}", flush=True))
    packed = pack(root)
    checksums(directory)
    print(f"{packed}: {packed.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
