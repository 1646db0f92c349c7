# SPDX-License-Identifier: Apache-2.0
"""The owners of events: from cgroups, processes and network namespaces to pods and containers."""
