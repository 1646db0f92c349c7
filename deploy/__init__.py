# SPDX-License-Identifier: Apache-2.0
"""What brings ktrace onto nodes: the bundle, the image made of it, and manifests."""


class BuildError(Exception):
    """Something that building needs is missing or has failed; says which, and what brings it."""
