{{- define "ullage.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ullage.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "ullage.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ullage.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ullage.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ullage.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ullage.labels" -}}
{{ include "ullage.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ullage.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ullage.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Whether any number of processes may run: facts and bytes are elsewhere. */}}
{{- define "ullage.shared" -}}
{{- if and (or .Values.database.url .Values.database.existingSecret) .Values.storage.url -}}yes{{- end -}}
{{- end -}}

{{- define "ullage.check" -}}
{{- if not (include "ullage.shared" .) -}}
{{- if gt (int .Values.replicaCount) 1 -}}
{{- fail "replicaCount: more than 1 takes database.url or database.existingSecret (PostgreSQL), and storage.url (a bucket)" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "autoscaling: more than one replica takes database.url or database.existingSecret (PostgreSQL), and storage.url (a bucket)" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor: there is nothing to scrape without metrics.enabled" -}}
{{- end -}}
{{- if and .Values.secrets.htpasswd .Values.auth.existingSecret -}}
{{- fail "auth.existingSecret, secrets.htpasswd: accounts come from one place; give one of the two" -}}
{{- end -}}
{{- end -}}

{{- define "ullage.ownSecret" -}}
{{- if or .Values.secrets.htpasswd (and .Values.database.url (not .Values.database.existingSecret)) -}}yes{{- end -}}
{{- end -}}

{{- define "ullage.pod" -}}
metadata:
  labels:
    {{- include "ullage.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ .Values.config | sha256sum }}
    checksum/secret: {{ printf "%s\n%s" .Values.secrets.htpasswd .Values.database.url | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "ullage.serviceAccountName" . }}
  automountServiceAccountToken: false
  # A service with the name `ullage` would give ULLAGE_PORT to the pod, which is no setting.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ullage
      image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["serve"]
      env:
        - name: ULLAGE_LISTEN
          value: "0.0.0.0:5000"
        - name: ULLAGE_DATA
          value: /var/lib/ullage
        {{- if .Values.secrets.htpasswd }}
        - name: ULLAGE_HTPASSWD
          value: /etc/ullage/accounts/htpasswd
        {{- else }}
        - name: ULLAGE_AUTH
          value: "true"
        {{- end }}
        {{- if .Values.auth.existingSecret }}
        - name: ULLAGE_ADMIN_PASSWORD_FILE
          value: /etc/ullage/admin/password
        {{- end }}
        {{- if or .Values.database.url .Values.database.existingSecret }}
        - name: ULLAGE_DATABASE
          valueFrom:
            secretKeyRef:
              name: {{ default (include "ullage.fullname" .) .Values.database.existingSecret }}
              key: url
        {{- end }}
        {{- with .Values.storage.url }}
        - name: ULLAGE_STORAGE
          value: {{ . | quote }}
        {{- end }}
        {{- if .Values.metrics.enabled }}
        - name: ULLAGE_METRICS
          value: "0.0.0.0:{{ .Values.metrics.port }}"
        {{- end }}
        {{- if .Values.tlsSecretName }}
        - name: ULLAGE_TLS_CERT
          value: /etc/ullage/tls/tls.crt
        - name: ULLAGE_TLS_KEY
          value: /etc/ullage/tls/tls.key
        {{- end }}
        {{- if .Values.config }}
        - name: ULLAGE_CONFIG
          value: /etc/ullage/config/ullage.toml
        {{- end }}
        {{- with .Values.extraEnvVars }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.storage.existingSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      ports:
        - name: registry
          containerPort: 5000
        {{- if .Values.metrics.enabled }}
        - name: metrics
          containerPort: {{ .Values.metrics.port }}
        {{- end }}
      startupProbe:
        httpGet: {path: /readyz, port: registry, scheme: {{ ternary "HTTPS" "HTTP" (ne .Values.tlsSecretName "") }}}
        periodSeconds: 2
        # Five minutes: a start may migrate a large database.
        failureThreshold: 150
      readinessProbe:
        httpGet: {path: /readyz, port: registry, scheme: {{ ternary "HTTPS" "HTTP" (ne .Values.tlsSecretName "") }}}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {path: /livez, port: registry, scheme: {{ ternary "HTTPS" "HTTP" (ne .Values.tlsSecretName "") }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /var/lib/ullage
        - name: tmp
          mountPath: /tmp
        {{- if .Values.secrets.htpasswd }}
        - name: accounts
          mountPath: /etc/ullage/accounts
          readOnly: true
        {{- end }}
        {{- if .Values.auth.existingSecret }}
        - name: admin
          mountPath: /etc/ullage/admin
          readOnly: true
        {{- end }}
        {{- if .Values.tlsSecretName }}
        - name: tls
          mountPath: /etc/ullage/tls
          readOnly: true
        {{- end }}
        {{- if .Values.config }}
        - name: config
          mountPath: /etc/ullage/config
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if or (include "ullage.shared" .) (not .Values.persistence.enabled) }}
    - name: data
      emptyDir: {}
    {{- else if .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.persistence.existingClaim }}
    {{- end }}
    {{- if .Values.secrets.htpasswd }}
    - name: accounts
      secret:
        secretName: {{ include "ullage.fullname" . }}
        items: [{key: htpasswd, path: htpasswd}]
    {{- end }}
    {{- with .Values.auth.existingSecret }}
    - name: admin
      secret:
        secretName: {{ . }}
        items: [{key: password, path: password}]
    {{- end }}
    {{- with .Values.tlsSecretName }}
    - name: tls
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- if .Values.config }}
    - name: config
      configMap:
        name: {{ include "ullage.fullname" . }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
