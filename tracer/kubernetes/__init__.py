# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' half: what its API says, and the way to it."""
