# SPDX-License-Identifier: Apache-2.0
"""What several causes and reasons have in common: picking of a story what they need, and words."""
