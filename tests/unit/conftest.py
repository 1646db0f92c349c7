# SPDX-License-Identifier: Apache-2.0
"""A slow or busy machine is no failure: how long examples take is not judged."""

from hypothesis import HealthCheck, settings

settings.register_profile("anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anywhere")
