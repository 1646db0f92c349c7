# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace`: the same words as `ktrace`, from where kubectl is, without any privilege there.

It finds the nodes on which the pods in question run, has ktrace run there in a pod, and shows what
that tells. All it knows of the cluster comes from kubectl, whose configuration and rights are its
own. Nothing here touches a kernel.
"""
