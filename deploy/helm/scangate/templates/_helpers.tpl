{{- define "scangate.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "scangate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "scangate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "scangate.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "scangate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What every pod of the chart runs as. */}}
{{- define "scangate.podSecurity" -}}
serviceAccountName: {{ include "scangate.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    {{- if .Values.seccomp.localhostProfile }}
    type: Localhost
    localhostProfile: {{ .Values.seccomp.localhostProfile }}
    {{- else }}
    type: RuntimeDefault
    {{- end }}
{{- end }}

{{- define "scangate.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "scangate.env" -}}
- { name: SCANGATE_GATEWAY__DATA_DIR, value: /data }
- { name: SCANGATE_GATEWAY__DRAIN_TIMEOUT_MS, value: {{ mul .Values.drainTimeoutSeconds 1000 | quote }} }
- { name: SCANGATE_LISTEN__ADDR, value: "{{ .Values.listenAddress }}:8080" }
- { name: SCANGATE_LISTEN__ADMIN, value: "{{ .Values.listenAddress }}:9090" }
- { name: SCANGATE_ADMIN__ALLOW_PLAIN, value: "{{ .Values.adminPlain }}" }
{{- if .Values.cql.user }}
- { name: SCANGATE_CQL__USER, value: {{ .Values.cql.user | quote }} }
- { name: SCANGATE_CQL__PASSWORD_FILE, value: /etc/scangate-cql/password }
{{- end }}
{{- end }}

{{- define "scangate.mounts" -}}
- { name: config, mountPath: /etc/scangate, readOnly: true }
{{- if .Values.cql.user }}
- { name: cql-password, mountPath: /etc/scangate-cql, readOnly: true }
{{- end }}
{{- end }}

{{- define "scangate.volumes" -}}
- name: config
  configMap: { name: {{ include "scangate.name" . }} }
{{- if .Values.cql.user }}
- name: cql-password
  secret:
    secretName: {{ required "cql.passwordSecret.name is required with cql.user" .Values.cql.passwordSecret.name }}
    defaultMode: 0440
    items: [{ key: {{ .Values.cql.passwordSecret.key }}, path: password }]
{{- end }}
{{- end }}
