{{- define "gateway.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{/* Labels that select the pods. */}}
{{- define "gateway.selectorLabels" -}}
app: {{ .Values.labels.app | default (include "gateway.name" .) | quote }}
istio: {{ .Values.labels.istio | default (include "gateway.name" . | trimPrefix "istio-") | quote }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selectorLabels" . }}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ include "gateway.name" . }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- range $key, $value := omit .Values.labels "app" "istio" }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- with .Values.networkGateway }}
topology.istio.io/network: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "gateway.name" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* Labels of the pods beyond the common ones: injection, and the name that telemetry shows. */}}
{{- define "gateway.podLabels" -}}
sidecar.istio.io/inject: "true"
{{- with .Values.revision }}
istio.io/rev: {{ . | quote }}
{{- end }}
service.istio.io/canonical-name: {{ include "gateway.name" . }}
service.istio.io/canonical-revision: {{ index .Values.labels "service.istio.io/canonical-revision" | default "latest" | quote }}
istio.io/dataplane-mode: none
{{- end }}

{{/* The ports of the service: those of an east-west gateway where it leads into a network. */}}
{{- define "gateway.ports" -}}
{{- if .Values.networkGateway }}
{{- range $name := list "status-port" "tls" "tls-istiod" "tls-webhook" }}
{{- $port := get $.Values.networkGatewayPorts $name }}
- name: {{ $name }}
  port: {{ $port.port }}
  targetPort: {{ $port.targetPort | default $port.port }}
  {{- with $port.nodePort }}
  nodePort: {{ . }}
  {{- end }}
{{- end }}
{{- else }}
{{- toYaml .Values.service.ports }}
{{- end }}
{{- end }}
