# SPDX-License-Identifier: Apache-2.0
"""`ktrace agent`: always on. Traces with every probe, judges what happens while it happens, keeps a
history, and publishes verdicts."""
