{{- define "future.fullname" -}}
{{- default (printf "%s-%s" .Release.Name .Values.nameOverride) .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "future.scheduler" -}}{{ include "future.fullname" . }}-{{ .Values.scheduler.name }}{{- end -}}
{{- define "future.worker" -}}{{ include "future.fullname" . }}-{{ .Values.worker.name }}{{- end -}}
{{- define "future.rendezvous" -}}{{ include "future.fullname" . }}-rendezvous{{- end -}}

{{- /* Labels of everything; those of 2021 (app, release, component) are the selectors. */ -}}
{{- define "future.labels" -}}
{{ include "future.selector" . }}
app.kubernetes.io/name: {{ .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "future.selector" -}}
app: {{ .Values.nameOverride }}
release: {{ .Release.Name }}
{{- end -}}

{{- /* A text from the values, or a number: those of files are floating-point, 12345678 printed as 1.2345678e+07. JSON
prints the number. */ -}}
{{- define "future.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else if not (kindIs "invalid" .) -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- /* A list of environment variables: Kubernetes takes texts only, and whoever writes a number means its digits. */ -}}
{{- define "future.env" -}}
{{- $env := deepCopy . -}}
{{- range $env }}{{ if hasKey . "value" }}{{ $_ := set . "value" (include "future.text" .value) }}{{ end }}{{ end -}}
{{- toYaml $env -}}
{{- end -}}

{{- /* Image of a {repository, tag}: call with (list $ .Values.x.image). */ -}}
{{- define "future.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion (include "future.text" $image.tag) }}
{{- end -}}

{{- /* imagePullSecrets of an image: a name, a list of names, or a list of objects. */ -}}
{{- define "future.pullSecrets" -}}
{{- $secrets := . -}}
{{- if and $secrets (kindIs "string" $secrets) -}}{{- $secrets = list $secrets -}}{{- end -}}
{{- with $secrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ kindIs "string" . | ternary . (get (kindIs "string" . | ternary dict .) "name") }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "future.tls.rendezvous" -}}
{{- if eq .Values.tls.source "existing" -}}{{ required "tls.rendezvousSecret: with tls.source existing, name the Secret of the rendezvous" .Values.tls.rendezvousSecret }}
{{- else -}}{{ include "future.rendezvous" . }}-tls{{- end -}}
{{- end -}}

{{- define "future.tls.worker" -}}
{{- if eq .Values.tls.source "existing" -}}{{ required "tls.workerSecret: with tls.source existing, name the Secret of the agents" .Values.tls.workerSecret }}
{{- else -}}{{ include "future.worker" . }}-tls{{- end -}}
{{- end -}}

{{- /* With --reuse-values an upgrade has the values of a chart that did not know it: its certificates are for this name. */ -}}
{{- define "future.tls.workerName" -}}{{ default "worker" .Values.tls.workerName }}{{- end -}}

{{- define "future.rstudio.secret" -}}
{{- default (printf "%s-rstudio" (include "future.fullname" .)) .Values.scheduler.RStudioSecret -}}
{{- end -}}

{{- define "future.claim" -}}
{{- default (printf "%s-shared" (include "future.fullname" .)) .Values.sharedVolume.existingClaim -}}
{{- end -}}

{{- /* The value of EXTRA_R_PACKAGES in a list of environment variables. */ -}}
{{- define "future.extraPackages" -}}
{{- range . }}{{- if eq .name "EXTRA_R_PACKAGES" }}{{ .value }}{{- end }}{{- end -}}
{{- end -}}

{{- /* A quantity of memory in MiB; nothing for one that is written in a way that is not known here. */ -}}
{{- define "future.mebibytes" -}}
{{- $text := include "future.text" . -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexReplaceAll "^[0-9]*[.]?[0-9]+" $text "" -}}
{{- if hasKey $units $unit -}}{{ divf (mulf (float64 (trimSuffix $unit $text)) (index $units $unit)) 1048576 | int }}{{- end -}}
{{- end -}}

{{- /* What the Pod Security Standard "restricted" asks of a container. */ -}}
{{- define "future.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* The init container that brings the agent into any image. */ -}}
{{- define "future.inject" -}}
- name: agent
  image: {{ include "future.image" (list . .Values.agent.image) }}
  imagePullPolicy: {{ .Values.agent.image.pullPolicy }}
  args: [inject, /opt/psock]
  resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 128Mi}}
  securityContext:
    runAsUser: 65532
    {{- include "future.restricted" . | nindent 4 }}
  volumeMounts:
  - {name: agent, mountPath: /opt/psock}
{{- end -}}

{{- /* Scrape annotations: call with the port. */ -}}
{{- define "future.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ . | quote }}
prometheus.io/path: /metrics
{{- end -}}

{{- define "future.sharedMount" -}}
{{- if .Values.sharedVolume.enabled -}}
- {name: shared, mountPath: {{ .Values.sharedVolume.mountPath }}}
{{- end }}
{{- end -}}

{{- define "future.sharedVolume" -}}
{{- if .Values.sharedVolume.enabled -}}
- name: shared
  persistentVolumeClaim: {claimName: {{ include "future.claim" . }}}
{{- end }}
{{- end -}}

{{- /* Name of a group's Deployment: call with (list $ GROUP). */ -}}
{{- define "future.group" -}}
{{- $root := index . 0 -}}{{- $group := index . 1 -}}
{{ include "future.worker" $root }}{{ if ne $group "default" }}-{{ $group }}{{ end }}
{{- end -}}

{{- /* The groups whose number of pods the rendezvous changes, as JSON: {"groups": [...]}. */ -}}
{{- define "future.scaled" -}}
{{- $root := . -}}
{{- $groups := list (dict "group" "default" "slots" .Values.worker.slots "autoscaling" .Values.worker.autoscaling) -}}
{{- range .Values.workerGroups -}}
{{- $autoscaling := mergeOverwrite (deepCopy $root.Values.worker.autoscaling) (default dict .autoscaling) -}}
{{- $groups = append $groups (dict "group" .name "slots" (default $root.Values.worker.slots .slots) "autoscaling" $autoscaling) -}}
{{- end -}}
{{- $scaled := list -}}
{{- range $groups -}}
{{- $a := .autoscaling -}}
{{- if $a.enabled -}}
{{- $name := include "future.group" (list $root .group) -}}
{{- if lt (int $a.max) (int $a.min) -}}
{{- fail (printf "autoscaling of the group %q: max (%d) is less than min (%d)" .group (int $a.max) (int $a.min)) -}}
{{- end -}}
{{- if gt (mul $a.max .slots) (int64 $root.Values.rendezvous.maxWorkers) -}}
{{- fail (printf "autoscaling of the group %q: %d workers (max times slots) are more than rendezvous.maxWorkers (%d)" .group (mul $a.max .slots) (int $root.Values.rendezvous.maxWorkers)) -}}
{{- end -}}
{{- if gt (len $name) 46 -}}
{{- fail (printf "autoscaling of the group %q: Deployment %s would have pods whose names are no host names, which have 63 characters; set a shorter fullnameOverride or name of the group" .group $name) -}}
{{- end -}}
{{- $scaled = append $scaled (dict "group" .group "deployment" $name "min" (int $a.min) "max" (int $a.max) "slots" (int .slots) "idle" $a.idle "rate" (int $a.rate) "start" $a.startTimeout) -}}
{{- end -}}
{{- end -}}
{{- if and $scaled (gt (int .Values.scheduler.replicas) 1) -}}
{{- fail (printf "scheduler.replicas: %d schedulers would scale the same workers; with autoscaling have one, and a release for each session that wants its own" (int .Values.scheduler.replicas)) -}}
{{- end -}}
{{- dict "groups" $scaled | toJson -}}
{{- end -}}
