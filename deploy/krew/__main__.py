# SPDX-License-Identifier: Apache-2.0
"""`python -m deploy.krew dist BASE_URL`: writes ktrace.yaml and the bundles' archives beside the
bundles in a directory. The archives must be published below BASE_URL."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.krew.build import ARCHITECTURES, manifest, pack


def main(directory: str, base: str) -> None:
    bundles = [
        bundle
        for machine in ARCHITECTURES
        for bundle in sorted(Path(directory).glob(f"ktrace-*-{machine}"))
        if bundle.is_dir()
    ]
    if not bundles:
        raise BuildError(f"no bundle in {directory}: make bundle")
    archives = {bundle: pack(bundle) for bundle in bundles}
    target = Path(directory, "ktrace.yaml")
    target.write_text(manifest(archives, base))
    print(f"{target}: {', '.join(archive.name for archive in archives.values())}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m deploy.krew DIRECTORY BASE_URL")
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
