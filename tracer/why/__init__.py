# SPDX-License-Identifier: Apache-2.0
"""What the events of a container mean: timelines, verdicts and their wording."""
