# SPDX-License-Identifier: Apache-2.0
"""`ktrace decode`: the meaning of a number, a path, a line of the kernel log or a whole report.

The text is the only input, so this also works for text pasted from another machine. If the text is
ambiguous, the answer says so: containers choose the names of their processes and cgroups, and a
name may imitate the line around it.

    text     takes a text and gives the answers
    lines    strips the prefixes of log daemons
    kinds/   one module for each kind of text, found by listing the folder
    eras     GFP flags by kernel release

No text is kept as a whole: kinds see one line, and blocks keep their findings within bounds.
"""
