# SPDX-License-Identifier: Apache-2.0
"""What several causes and reasons share: picking facts from a story, and wording."""
