# SPDX-License-Identifier: Apache-2.0
"""`Node 0 Normal free:… min:… low:…`: a zone in the kernel log's report about memory."""

from __future__ import annotations

from tracer.decode import freelists
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = freelists.marks(line.text)
    return [found.words] if found else None


KIND = Kind(_read, marks=(" free:",), rank=35)
