# SPDX-License-Identifier: Apache-2.0
"""`ktrace live`: a worker folds events into a model and posts snapshots; the screen only draws
them."""
