{{- /* python -m deploy.kubernetes wrote this from tracer/agent/publishers */ -}}
{{- define "ktrace.publishers.args" -}}
{{- if .Values.events }}
- --events
{{- with .Values.eventsKubeconfig }}
- {{ printf "--events-kubeconfig=%v" . | quote }}
{{- end }}
{{- end }}
{{- if .Values.otlp }}
- {{ printf "--otlp=%v" .Values.otlp | quote }}
{{- with .Values.otlpEvents }}
- {{ printf "--otlp-events=%v" . | quote }}
{{- end }}
{{- if .Values.otlpPods }}
- --otlp-pods
{{- end }}
{{- end }}
{{- if .Values.prometheus }}
- --prometheus
{{- if .Values.prometheusPods }}
- --prometheus-pods
{{- end }}
{{- if .Values.prometheusRunTime }}
- --prometheus-run-time
{{- end }}
{{- end }}
{{- end }}
{{- define "ktrace.publishers.env" -}}
{{- if .Values.otlp }}
{{- with .Values.otlpHeadersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: headers}}
{{- end }}
{{- end }}
{{- end }}
{{- define "ktrace.publishers.capabilities" -}}
{{- if .Values.prometheus }}
{{- if .Values.prometheusRunTime }}, SYS_ADMIN{{ end }}
{{- end }}
{{- end }}
{{- define "ktrace.publishers.api" -}}
{{- if .Values.events }}
true
{{- end }}
{{- end }}
{{- define "ktrace.publishers.rbac" -}}
{{- if .Values.events }}
---
# For --events, in whatever namespace.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: ktrace-events
  labels: {app.kubernetes.io/name: ktrace}
rules:
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: ktrace-events
  labels: {app.kubernetes.io/name: ktrace}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ktrace-events}
subjects:
- {kind: ServiceAccount, name: ktrace, namespace: {{ .Release.Namespace }}}
{{- end }}
{{- end }}
