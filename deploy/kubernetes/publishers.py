# SPDX-License-Identifier: Apache-2.0
"""The chart's part on publishers, from their folder: a value for each option, by the option's word
(`--otlp-events` is `otlpEvents`), and what they need of the pod and of the API server.

A publisher whose pages the agent serves sends nothing anywhere, so it is on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from tracer.agent import publishers
from tracer.agent.publishers import Asked, Publisher

WROTE = "python -m deploy.kubernetes wrote this from tracer/agent/publishers"
BEGIN, END = f"# {WROTE}\n", "# until here\n"


@dataclass(frozen=True)
class Known:
    name: str
    publisher: Publisher
    options: tuple[Asked, ...]

    @property
    def on(self) -> Asked:
        return next(one for one in self.options if one.field == "on")

    @property
    def others(self) -> list[Asked]:
        return [one for one in self.options if one.field != "on"]


def known() -> list[Known]:
    every = [(name, publishers.get(name)) for name in publishers.names()]
    return [Known(name, one, tuple(publishers.asked(name, one.options))) for name, one in every]


def values() -> str:
    """The lines of values.yaml."""
    lines = [BEGIN]
    for one in known():
        for option in one.options:
            default = True if option is one.on and one.publisher.serves else _default(option)
            lines += [fill(option.help, 118, initial_indent="# ", subsequent_indent="# "), "\n"]
            lines += f"{value_of(option.name)}: {json.dumps(default)}\n"
        for key, variable in one.publisher.needs.secrets.items():
            lines += f"# A secret whose key `{key}` is {variable}.\n"
            lines += f'{_secret(one, key)}: ""\n'
    return "".join([*lines, END])


def with_values(text: str) -> str:
    """A values.yaml with these lines in place of earlier ones."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + values() + after


def template() -> str:
    """The file with named templates."""
    parts = {
        "args": _args,
        "env": _env,
        "capabilities": _capabilities,
        "api": _api,
        "rbac": _rbac,
    }
    return f"{{{{- /* {WROTE} */ -}}}}\n" + "".join(
        f'{{{{- define "ktrace.publishers.{name}" -}}}}\n'
        + "".join(_if_on(one, "".join(make(one))) for one in known())
        + "{{- end }}\n"
        for name, make in parts.items()
    )


def value_of(name: str) -> str:
    """`otlpEvents` of `otlp_events`."""
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)


def _secret(one: Known, key: str) -> str:
    return value_of(f"{one.name}_{key}_secret")


def _default(option: Asked) -> Any:
    """The agent has its own for what is empty. A time or a size needs its unit."""
    if isinstance(option.default, bool | str):
        return option.default
    return list(option.default) if isinstance(option.default, tuple) else ""


def _if_on(one: Known, text: str) -> str:
    return f"{{{{- if .Values.{value_of(one.on.name)} }}}}\n{text}{{{{- end }}}}\n" if text else ""


def _args(one: Known) -> Iterator[str]:
    for option in (one.on, *one.others):
        word, value = f"--{option.name.replace('_', '-')}", f".Values.{value_of(option.name)}"
        if option.default is True:
            yield f"{{{{- if not {value} }}}}\n- --no-{word[2:]}\n{{{{- end }}}}\n"
        elif option is one.on:
            plain = isinstance(option.default, bool)
            said = f'{{{{ printf "{word}=%v" {value} | quote }}}}'
            yield f"- {word if plain else said}\n"
        elif isinstance(option.default, bool):
            yield f"{{{{- if {value} }}}}\n- {word}\n{{{{- end }}}}\n"
        else:
            each = "range" if isinstance(option.default, tuple) else "with"
            said = f'- {{{{ printf "{word}=%v" . | quote }}}}\n'
            yield f"{{{{- {each} {value} }}}}\n{said}{{{{- end }}}}\n"


def _env(one: Known) -> Iterator[str]:
    for key, variable in one.publisher.needs.secrets.items():
        yield (
            f"{{{{- with .Values.{_secret(one, key)} }}}}\n"
            f"- name: {variable}\n"
            f"  valueFrom: {{secretKeyRef: {{name: {{{{ . }}}}, key: {key}}}}}\n"
            "{{- end }}\n"
        )


def _capabilities(one: Known) -> Iterator[str]:
    names = {option.field: option.name for option in one.options}
    for option, capability in one.publisher.needs.capabilities.items():
        yield f"{{{{- if .Values.{value_of(names[option])} }}}}, {capability}{{{{ end }}}}\n"


def _api(one: Known) -> Iterator[str]:
    if one.publisher.needs.rights:
        yield "true\n"


def _rbac(one: Known) -> Iterator[str]:
    rights: Mapping[str, tuple[str, ...]] = one.publisher.needs.rights
    if not rights:
        return
    name = f"ktrace-{one.name}"
    yield f"""---
# For --{one.name.replace("_", "-")}, in whatever namespace.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: ktrace}}
rules:
"""
    for resource, verbs in rights.items():
        yield f'- apiGroups: [""]\n  resources: [{resource}]\n  verbs: [{", ".join(verbs)}]\n'
    yield f"""---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: ktrace}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects:
- {{kind: ServiceAccount, name: ktrace, namespace: {{{{ .Release.Namespace }}}}}}
"""
