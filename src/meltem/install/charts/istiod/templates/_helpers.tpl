{{/* "-REVISION", or nothing for the default one. */}}
{{- define "istiod.suffix" -}}
{{- if and .Values.revision (ne .Values.revision "default") }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{- define "istiod.name" -}}
istiod{{ include "istiod.suffix" . }}
{{- end }}

{{- define "istiod.revision" -}}
{{ .Values.revision | default "default" }}
{{- end }}

{{/* Labels of every object of this chart. */}}
{{- define "istiod.labels" -}}
app: istiod
istio.io/rev: {{ include "istiod.revision" . | quote }}
release: {{ .Release.Name }}
app.kubernetes.io/name: istiod
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
operator.istio.io/component: Pilot
{{- end }}

{{/* Settings of the control plane: `pilot.*`, with the same names at the top level winning. */}}
{{- define "istiod.pilot" -}}
{{- $pilot := deepCopy .Values.pilot }}
{{- $top := pick .Values "autoscaleEnabled" "autoscaleMin" "autoscaleMax" "autoscaleBehavior" "replicaCount" "rollingMaxSurge" "rollingMaxUnavailable" "hub" "tag" "variant" "image" "traceSampling" "resources" "seccompProfile" "cpu" "memory" "keepaliveMaxServerConnectionAge" "env" "envVarFrom" "extraContainerArgs" "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" "volumes" "volumeMounts" "initContainers" "podAnnotations" "podLabels" "deploymentLabels" "deploymentAnnotations" "pdb" "serviceAnnotations" "serviceAccountAnnotations" "configMap" "jwksResolverExtraRootCA" "ipFamilyPolicy" "ipFamilies" "cni" }}
{{- toJson (mergeOverwrite $pilot $top) }}
{{- end }}

{{- define "istiod.image" -}}
{{- $pilot := include "istiod.pilot" . | fromJson }}
{{- if contains "/" $pilot.image }}
{{- $pilot.image }}
{{- else }}
{{- $pilot.hub | default .Values.global.hub }}/{{ $pilot.image }}:{{ $pilot.tag | default .Values.global.tag }}{{ with $pilot.variant | default .Values.global.variant }}-{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* Where proxies find their control plane. */}}
{{- define "istiod.discoveryAddress" -}}
{{ include "istiod.name" . }}.{{ .Release.Namespace }}.svc:15012
{{- end }}

{{/* How the API server reaches istiod's webhooks; the argument has the context (.context) and the path (.path). */}}
{{- define "istiod.webhookClient" -}}
{{- $remote := .context.Values.istiodRemote }}
{{- if $remote.injectionURL }}
url: {{ $remote.injectionURL | quote }}
{{- else }}
service:
  name: {{ include "istiod.name" .context }}
  namespace: {{ .context.Release.Namespace }}
  path: {{ .path | quote }}
  port: 443
{{- end }}
{{- with $remote.injectionCABundle }}
caBundle: {{ . | quote }}
{{- end }}
{{- end }}

{{/* One webhook of the sidecar injector: .context, .name, .namespaces and .objects (lists of match expressions). */}}
{{- define "istiod.injector" -}}
{{- $path := .context.Values.istiodRemote.injectionPath | default "/inject" }}
- name: {{ .name }}.sidecar-injector.istio.io
  clientConfig:
    {{- include "istiod.webhookClient" (dict "context" .context "path" $path) | nindent 4 }}
  sideEffects: None
  rules:
  - operations: [CREATE]
    apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
  failurePolicy: Fail
  reinvocationPolicy: {{ .context.Values.sidecarInjectorWebhook.reinvocationPolicy }}
  admissionReviewVersions: [v1]
  namespaceSelector:
    matchExpressions:
    {{- toYaml .namespaces | nindent 4 }}
  objectSelector:
    matchExpressions:
    {{- toYaml .objects | nindent 4 }}
{{- end }}

{{/* The webhooks that inject for one revision or tag (.revision); .context is the chart's. */}}
{{- define "istiod.injectors" -}}
{{- $missing := "DoesNotExist" }}
{{- $noInject := dict "key" "istio-injection" "operator" $missing }}
{{- $noRev := dict "key" "istio.io/rev" "operator" $missing }}
{{- $isRev := dict "key" "istio.io/rev" "operator" "In" "values" (list .revision) }}
{{- $allowed := dict "key" "sidecar.istio.io/inject" "operator" "NotIn" "values" (list "false") }}
{{- $wanted := dict "key" "sidecar.istio.io/inject" "operator" "In" "values" (list "true") }}
{{- $unsaid := dict "key" "sidecar.istio.io/inject" "operator" $missing }}
{{- $enabled := dict "key" "istio-injection" "operator" "In" "values" (list "enabled") }}
{{- $system := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (list "kube-system" "kube-public" "kube-node-lease" "local-path-storage") }}
{{- include "istiod.injector" (dict "context" .context "name" "rev.namespace" "namespaces" (list $isRev $noInject) "objects" (list $allowed)) }}
{{ include "istiod.injector" (dict "context" .context "name" "rev.object" "namespaces" (list $noRev $noInject) "objects" (list $allowed $isRev)) }}
{{- if eq .revision "default" }}
{{ include "istiod.injector" (dict "context" .context "name" "namespace" "namespaces" (list $enabled) "objects" (list $allowed)) }}
{{ include "istiod.injector" (dict "context" .context "name" "object" "namespaces" (list $noInject $noRev) "objects" (list $wanted $noRev)) }}
{{- if .context.Values.sidecarInjectorWebhook.enableNamespacesByDefault }}
{{ include "istiod.injector" (dict "context" .context "name" "auto" "namespaces" (list $noInject $noRev $system) "objects" (list $unsaid $noRev)) }}
{{- end }}
{{- end }}
{{- end }}
