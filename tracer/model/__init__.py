# SPDX-License-Identifier: Apache-2.0
"""What all rooms speak of: events, whom they are of, names, records, turns, and what is wanted."""
