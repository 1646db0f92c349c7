# SPDX-License-Identifier: Apache-2.0
"""`make image`: the image of the bundle in a directory, written beside the bundle as an OCI
archive, and the manifest that runs it on every node."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import BuildError
from deploy.architecture import wanted
from deploy.bundle.build import checksums, directory_name
from deploy.image.build import build
from deploy.kubernetes.build import whole


def main(into: str) -> None:
    directory, architecture = Path(into), wanted()
    bundle = directory / directory_name(architecture)
    target = directory / f"{bundle.name}.oci.tar"
    name = build({architecture: bundle}, target, lambda what: print(f"image: {what}", flush=True))
    (directory / "daemonset.yaml").write_text(whole())
    checksums(directory)
    print(f"{target}: {name}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BuildError as error:
        sys.exit(str(error))
