# SPDX-License-Identifier: Apache-2.0
"""`make image`: the image of the bundle in a directory, as an OCI archive beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deploy import BuildError
from deploy.bundle.build import checksums
from deploy.image.build import build


def main(into: str) -> None:
    directory = Path(into)
    (bundle,) = directory.glob(f"ktrace-*-{os.uname().machine}")
    version = bundle.name.split("-")[1]
    target = directory / f"{bundle.name}.oci.tar"
    name = build(bundle, version, target, lambda words: print(f"image: {words}", flush=True))
    checksums(directory)
    print(f"{target}: {name}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
