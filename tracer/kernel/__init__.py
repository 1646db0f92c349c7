# SPDX-License-Identifier: Apache-2.0
"""What the running kernel says of itself: files in /proc and /sys, its log, its types."""
