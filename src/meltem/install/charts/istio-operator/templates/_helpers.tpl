{{- define "operator.name" -}}
istio-operator{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}

{{- define "operator.labels" -}}
app: istio-operator
name: {{ include "operator.name" . }}
release: {{ .Release.Name }}
app.kubernetes.io/name: istio-operator
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "operator.image" -}}
{{- if contains "/" .Values.image }}
{{- .Values.image }}
{{- else }}
{{- .Values.hub }}/{{ .Values.image }}:{{ .Values.tag }}
{{- end }}
{{- end }}
