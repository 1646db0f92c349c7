# SPDX-License-Identifier: Apache-2.0
"""Who an event concerns: from a cgroup path to a pod, a container and their names."""
