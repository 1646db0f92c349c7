# SPDX-License-Identifier: Apache-2.0
"""A slow or busy machine is no failure: how long one example takes is not judged."""

from hypothesis import settings

settings.register_profile("anywhere", deadline=None)
settings.load_profile("anywhere")
