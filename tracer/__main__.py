# SPDX-License-Identifier: Apache-2.0
"""`python -m tracer` is `ktrace`."""

from tracer.cli import main

main()
