# SPDX-License-Identifier: Apache-2.0
"""`make packages`: the bundle in a directory as a .deb and an .rpm beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.architecture import wanted
from deploy.bundle.build import checksums, directory_name
from deploy.packages.build import build


def main(into: str) -> None:
    directory, architecture = Path(into), wanted()
    for package in build(directory / directory_name(architecture), architecture, directory):
        print(f"{package}: {package.stat().st_size / 1e6:.1f} MB", flush=True)
    checksums(directory)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
