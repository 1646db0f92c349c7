# SPDX-License-Identifier: Apache-2.0
"""The text of `kubectl ktrace --help`."""

from __future__ import annotations

import textwrap


def usage() -> str:
    from tracer import probes

    words = f"{', '.join(probes.names())}, trace PROBE,…"
    listed = textwrap.wrap(words, 78, initial_indent="  ", subsequent_indent="  ")
    return _USAGE.replace("{probes}", "\n".join(listed))


_USAGE = """\
Usage: kubectl ktrace COMMAND [ARGS]...

  Says what the kernel did to your pods: who killed, what was refused, and why.

  The same words as ktrace, from where kubectl is. ktrace itself runs on the nodes of the pods in
  question: in the pod of its DaemonSet, or else in one that is made there and taken away again.

Commands:
  why POD           what happens to a pod, how sure that is, what to do
{probes}
                    what the kernel tells, as it happens; of several nodes in order of time
  history [POD]     what ended or was hurt, as the agents have seen it, also of pods that are gone
  live              which pods of a node are hurt, on the whole screen
  record -o FILE    a recording that arrives here; of several nodes FILE is one for each
  pods              the pods and containers of a node, as its kernel has them
  doctor            the whole cluster: what ktrace can tell on each node, and pods that were left
  replay, info, export, report, decode, …
                    as ktrace does, on this machine
  COMMAND --help    what ktrace has to say of it

Which nodes:
  -n, --namespace NAME  The pods' namespace, as with kubectl; default: the context's.
  -A, --all-namespaces  Pods of every namespace.
  -p, --pod NAME        The pod: [namespace/]name, glob or deploy/NAME. Repeatable.
  -l, --selector K=V    Its labels.
  --node NAME           This node, whichever pods are on it. Repeatable.
  --all-nodes           Every node that is ready and runs Linux.

ktrace's own pod:
  --image NAME               Make a pod of this image, also where the DaemonSet has one; default:
                             localhost/ktrace:VERSION, which make image makes.
  --image-pull-secret NAME   What pulling it takes.
  --ktrace-namespace NAME    Where the DaemonSet is, and where pods are made; default: ktrace, and
                             where there is none the context's.

  --context, --kubeconfig, --as, --token … are kubectl's.

Examples:
  kubectl ktrace why shop/web-0              wait until something happens to it, and say why
  kubectl ktrace signals -n shop -l app=web  on every node that has such a pod
  kubectl ktrace exits --all-nodes -o json   with the node in each line
  kubectl ktrace history --since 2h          of every node that has an agent
  kubectl ktrace live --node node1
  kubectl ktrace record -o here.ktrace -n shop --duration 5m && ktrace why here.ktrace
  kubectl ktrace doctor --context prod
"""
