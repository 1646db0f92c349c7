# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of all rooms: events and their parties, names, records, turns, selection."""
