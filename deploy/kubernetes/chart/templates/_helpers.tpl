{{- define "sandbox-executor.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sandbox-executor.kind" -}}
{{ if .Values.sessions.enabled }}StatefulSet{{ else }}Deployment{{ end }}
{{- end }}

{{- define "sandbox-executor.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sandbox-executor.selector" -}}
app.kubernetes.io/name: sandbox-executor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sandbox-executor.labels" -}}
{{ include "sandbox-executor.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
