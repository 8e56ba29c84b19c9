{{/* What every object is labelled with, and what the pods are found by. */}}
{{- define "sluice.labels" -}}
app.kubernetes.io/name: sluice
{{- end -}}

{{/* The image, by digest where there is one. */}}
{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Host and port; an IPv6 address needs brackets. */}}
{{- define "sluice.bind" -}}
{{- $host := .host -}}
{{- if contains ":" $host }}{{ $host = printf "[%s]" $host }}{{ end -}}
{{ $host }}:{{ .port }}
{{- end -}}
