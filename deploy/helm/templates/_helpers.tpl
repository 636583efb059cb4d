{{/* The observer's, whose name is the selector of its pods. */}}
{{- define "netpol.observerLabelled" -}}
labels:
  app.kubernetes.io/name: netpol-observer
  app.kubernetes.io/component: observer
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  app.kubernetes.io/part-of: netpol
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The recommended labels, but for the name: that of the DaemonSet's pods is their selector and never changes. */}}
{{- define "netpol.labels" -}}
app.kubernetes.io/component: agent
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: netpol
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Metadata of an object that is in no namespace. */}}
{{- define "netpol.labelled" -}}
labels:
  app.kubernetes.io/name: netpol-agent
  {{- include "netpol.labels" . | nindent 2 }}
{{- end }}

{{- define "netpol.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The host paths of a platform that differ from kubeadm's: those of deploy/overlays. */}}
{{- define "netpol.volumes" -}}
{{- $own := .Values.paths }}
{{- $conf := "/etc/cni/net.d" }}
{{- $bin := "/opt/cni/bin" }}
{{- $type := "DirectoryOrCreate" }}
{{- $results := "/var/lib/cni/results" }}
{{- $netns := "/run/netns" }}
{{- if eq .Values.platform "k3s" }}
{{- $conf = "/var/lib/rancher/k3s/agent/etc/cni/net.d" }}
{{- $bin = "/var/lib/rancher/k3s/data/cni" }}
{{- else if eq .Values.platform "microk8s" }}
{{- $conf = "/var/snap/microk8s/current/args/cni-network" }}
{{- $bin = "/var/snap/microk8s/current/opt/cni/bin" }}
{{- $type = "Directory" }}
{{- else if eq .Values.platform "minikube" }}
{{- $results = "/var/lib/cni/cache/results" }}
{{- $netns = "/run/docker/netns" }}
{{- end -}}
# Pinned maps and links outlive the agent. The host must have it mounted, as systemd does.
- name: bpffs
  hostPath: { path: /sys/fs/bpf, type: Directory }
# The socket of the CNI plugin, and the records of the endpoints.
- name: run
  hostPath: { path: /run/netpol, type: DirectoryOrCreate }
# What the container runtime knows of pods that are older than the agent.
- name: cni-results
  hostPath: { path: {{ $own.cniResults | default $results }}, type: DirectoryOrCreate }
- name: netns
  hostPath: { path: {{ $own.netns | default $netns }}, type: DirectoryOrCreate }
{{- if include "netpol.hasObserver" . }}
# By which the observer knows the agent and its node. No other server takes it.
- name: observer-token
  projected:
    sources:
      - serviceAccountToken: { path: token, audience: observe.netpol.dev, expirationSeconds: 3600 }
{{- end }}
- name: cni-conf
  hostPath: { path: {{ $own.cniConf | default $conf }}, type: {{ $type }} }
- name: cni-bin
  hostPath: { path: {{ $own.cniBin | default $bin }}, type: {{ $type }} }
{{- end }}

{{/* API servers before 1.30 refuse the field appArmorProfile, and know the annotation instead. */}}
{{- define "netpol.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}true{{ end }}
{{- end }}

{{/* Admission policies came with 1.30 too. */}}
{{- define "netpol.publishesAddresses" -}}
{{- if and .Values.publishAddresses.enabled (include "netpol.hasAppArmorField" .) }}true{{ end }}
{{- end }}

{{- define "netpol.hasObserver" -}}
{{- if and .Values.observer.enabled (not .Values.remove) }}true{{ end }}
{{- end }}

{{- define "netpol.hasMetrics" -}}
{{- if or .Values.metrics.enabled .Values.prometheusOperator.enabled }}true{{ end }}
{{- end }}
