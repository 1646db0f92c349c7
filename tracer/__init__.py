# SPDX-License-Identifier: Apache-2.0
"""ktrace: catches what the kernel does to pods, and says to which pod and why."""
