{{/* Settings: `cni.*`, with the same names at the top level winning. */}}
{{- define "cni.settings" -}}
{{- $top := pick .Values "hub" "tag" "variant" "image" "pullPolicy" "logging" "cniBinDir" "cniConfDir" "cniConfFileName" "chained" "provider" "excludeNamespaces" "podAnnotations" "podLabels" "affinity" "tolerations" "nodeSelector" "rollingMaxUnavailable" "updateStrategy" "terminationGracePeriodSeconds" "daemonSetLabels" "env" "resources" "seccompProfile" "seLinuxOptions" "resourceQuotas" "repair" }}
{{- toJson (mergeOverwrite (deepCopy .Values.cni) $top) }}
{{- end }}

{{- define "cni.labels" -}}
k8s-app: istio-cni-node
app.kubernetes.io/name: istio-cni
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
istio.io/rev: {{ .Values.revision | default "default" | quote }}
operator.istio.io/component: Cni
release: {{ .Release.Name }}
{{- end }}

{{- define "cni.image" -}}
{{- $cni := include "cni.settings" . | fromJson }}
{{- if contains "/" $cni.image }}
{{- $cni.image }}
{{- else }}
{{- $cni.hub | default .Values.global.hub }}/{{ $cni.image }}:{{ $cni.tag | default .Values.global.tag }}{{ with $cni.variant | default .Values.global.variant }}-{{ . }}{{ end }}
{{- end }}
{{- end }}
