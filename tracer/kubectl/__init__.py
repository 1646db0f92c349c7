# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace`: the same commands as `ktrace`, from where kubectl is, without any privilege
there.

It finds the nodes of the requested pods, runs ktrace there in a pod, and shows the output.
Everything it knows about the cluster comes from kubectl, with the user's own configuration and
rights. Nothing here touches a kernel.
"""
