{{/* Where a platform has its plugins, and how it runs several. */}}
{{- define "cni.platform" -}}
{{- $platform := .Values.global.platform }}
{{- if or (eq $platform "gke") (contains "-gke" .Capabilities.KubeVersion.Version) }}
cniBinDir: /home/kubernetes/bin
{{- else if eq $platform "k3s" }}
cniBinDir: /var/lib/rancher/k3s/data/cni
cniConfDir: /var/lib/rancher/k3s/agent/etc/cni/net.d
{{- else if eq $platform "k3d" }}
cniBinDir: /bin
cniConfDir: /var/lib/rancher/k3s/agent/etc/cni/net.d
{{- else if eq $platform "microk8s" }}
cniBinDir: /var/snap/microk8s/current/opt/cni/bin
cniConfDir: /var/snap/microk8s/current/args/cni-network
{{- else if eq $platform "openshift" }}
cniBinDir: /var/lib/cni/bin
cniConfDir: /etc/cni/multus/net.d
cniConfFileName: istio-cni.conf
chained: false
provider: multus
{{- end }}
{{- end }}

{{/* Settings: `cni.*`, with the same names at the top level winning; what neither says is the platform's. */}}
{{- define "cni.settings" -}}
{{- $top := pick .Values "hub" "tag" "variant" "image" "pullPolicy" "logging" "cniBinDir" "cniConfDir" "cniConfFileName" "chained" "provider" "excludeNamespaces" "podAnnotations" "podLabels" "affinity" "tolerations" "nodeSelector" "rollingMaxUnavailable" "updateStrategy" "terminationGracePeriodSeconds" "daemonSetLabels" "env" "resources" "seccompProfile" "seLinuxOptions" "resourceQuotas" "repair" }}
{{- $cni := mergeOverwrite (deepCopy .Values.cni) $top }}
{{- $usual := dict "cniBinDir" "/opt/cni/bin" "cniConfDir" "/etc/cni/net.d" "chained" true "provider" "default" }}
{{- range $key, $value := mergeOverwrite $usual (include "cni.platform" . | fromYaml) }}
{{- if has (toString (get $cni $key)) (list "" "<nil>") }}{{ $_ := set $cni $key $value }}{{ end }}
{{- end }}
{{- if kindIs "invalid" (get $cni.resourceQuotas "enabled") }}
{{- $_ := set $cni.resourceQuotas "enabled" (eq .Values.global.platform "gke") }}
{{- end }}
{{- toJson $cni }}
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
