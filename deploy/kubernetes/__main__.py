# SPDX-License-Identifier: Apache-2.0
"""Writes what kustomize reads, from the Helm chart: `python -m deploy.kubernetes`."""

from __future__ import annotations

import sys

from deploy import BuildError
from deploy.kubernetes.build import write

if __name__ == "__main__":
    try:
        for path in write():
            print(path)
    except BuildError as error:
        sys.exit(f"error: {error}")
