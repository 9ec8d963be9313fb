{{/* What the five services are told, and by whom they are called: the one place that knows one from another. */}}

{{/* Settings of one service, as YAML: its own over the defaults. */}}
{{- define "verbatim.settings" -}}
{{- $own := index .root.Values.services .component | default dict -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy $own)) -}}
{{- end -}}

{{/* Ports by name; "grpc" for those that are called. */}}
{{- define "verbatim.ports" -}}
{{- $ports := dict "internal" 9100 -}}
{{- if eq . "gateway" }}{{ $_ := set $ports "http" 8000 }}{{ end -}}
{{- if has . (list "transcriber" "meetings" "insights") }}{{ $_ := set $ports "grpc" 9200 }}{{ end -}}
{{- toYaml $ports -}}
{{- end -}}

{{/* Who calls whom over gRPC: caller -> called. The network policies are made of this. */}}
{{- define "verbatim.calls" -}}
gateway: [transcriber, meetings, insights]
transcriber: []
meetings: [transcriber]
insights: [meetings]
janitor: [transcriber, meetings]
{{- end -}}

{{/* Which stores each service speaks to, and whether it reaches out of the cluster. */}}
{{- define "verbatim.stores" -}}
gateway: [nats, redis]
transcriber: [nats, outside]
meetings: [nats, postgres, outside]
insights: [nats, postgres, outside]
janitor: [nats]
migrate: [postgres]
backup: [nats, postgres]
{{- end -}}

{{/* Secret with the certificate of one service: (dict "root" $ "component" name) */}}
{{- define "verbatim.tlsSecret" -}}
{{- printf "%s-%s" (.root.Values.tls.existingSecretPrefix | default (printf "%s-tls" (include "verbatim.fullname" .root))) .component -}}
{{- end -}}

{{/* Environment of one service: (dict "root" $ "component" name) */}}
{{- define "verbatim.env" -}}
{{- $full := include "verbatim.fullname" .root -}}
{{- $secret := include "verbatim.secret" .root -}}
{{- $values := .root.Values -}}
{{- $settings := include "verbatim.settings" . | fromYaml -}}
{{- $stores := index (include "verbatim.stores" .root | fromYaml) .component -}}
{{- $plain := dict
  "VERBATIM_ENV" "production"
  "VERBATIM_DATA_DIR" "/scratch"
  "INTERNAL_HOST" "0.0.0.0"
  "INTERNAL_PORT" "9100"
  "DRAIN_S" (toString $settings.drainSeconds)
  "NATS_REPLICAS" (ternary "1" (toString $values.external.nats.replicas) $values.bundled.nats.enabled)
-}}
{{- if hasKey (include "verbatim.ports" .component | fromYaml) "grpc" -}}
{{- $_ := set $plain "GRPC_HOST" "0.0.0.0" -}}
{{- $_ := set $plain "GRPC_PORT" "9200" -}}
{{- end -}}
{{- if eq .component "gateway" -}}
{{- $_ := set $plain "HOST" "0.0.0.0" -}}
{{- $_ := set $plain "PORT" "8000" -}}
{{- $_ := set $plain "ALLOWED_ORIGINS" (join "," $values.gateway.allowedOrigins) -}}
{{- $_ := set $plain "REQUEST_DRAIN_S" (toString (div $settings.drainSeconds 2)) -}}
{{- $_ := set $plain "LIVE_DRAIN_S" (toString (div $settings.drainSeconds 4)) -}}
{{- end -}}
{{- if has .component (list "gateway" "janitor") -}}
{{- $_ := set $plain "TRANSCRIBER_TARGETS" (printf "dns:///%s-transcriber:9200" $full) -}}
{{- end -}}
{{- if eq .component "meetings" -}}
{{- $_ := set $plain "TRANSCRIBER_TARGET" (printf "dns:///%s-transcriber:9200" $full) -}}
{{- end -}}
{{- if has .component (list "gateway" "insights" "janitor") -}}
{{- $_ := set $plain "MEETINGS_TARGET" (printf "dns:///%s-meetings:9200" $full) -}}
{{- end -}}
{{- if eq .component "gateway" -}}
{{- $_ := set $plain "INSIGHTS_TARGET" (printf "dns:///%s-insights:9200" $full) -}}
{{- end -}}
{{- if has .component (list "transcriber" "insights") -}}
{{- with $values.openai.baseUrl }}{{ $_ := set $plain "OPENAI_BASE_URL" . }}{{ end -}}
{{- end -}}
{{- if and (eq .component "janitor") $values.backup.enabled }}{{ $_ := set $plain "BACKUP_EXPECTED" "true" }}{{ end -}}
{{- if eq .component "transcriber" }}{{ $_ := set $plain "WHISPER_MODEL" $values.openai.whisperModel }}{{ end -}}
{{- if eq .component "insights" }}{{ $_ := set $plain "LLM_MODEL" $values.openai.llmModel }}{{ end -}}
{{- if $values.trust.configMap }}{{ $_ := set $plain "SSL_CERT_FILE" (printf "/trust/%s" $values.trust.key) }}{{ end -}}
{{- if $values.tls.enabled -}}
{{- range $variable, $file := dict "CERT" "tls.crt" "KEY" "tls.key" "CA" "ca.crt" -}}
{{- $_ := set $plain (printf "GRPC_TLS_%s" $variable) (printf "/tls/%s" $file) -}}
{{- end -}}
{{- end -}}
{{- $plain = mergeOverwrite $plain (deepCopy $values.env) (deepCopy $settings.env) -}}
- name: REPLICA
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- range $name := keys $plain | sortAlpha }}
- name: {{ $name }}
  value: {{ index $plain $name | toString | quote }}
{{- end }}
{{ include "verbatim.secretEnv" (dict "name" "SERVICE_AUTH_KEY" "secret" $secret) }}
{{ include "verbatim.secretEnv" (dict "name" "NATS_URL" "secret" ($values.external.nats.existingSecret | default $secret) "key" (ternary (printf "NATS_URL_%s" (upper .component)) "NATS_URL" $values.bundled.nats.enabled)) }}
{{- if has "redis" $stores }}
{{ include "verbatim.secretEnv" (dict "name" "REDIS_URL" "secret" ($values.external.redis.existingSecret | default $secret)) }}
{{- end }}
{{- if has "postgres" $stores }}
{{ include "verbatim.secretEnv" (dict "name" (printf "DATABASE_URL_%s" (upper .component)) "secret" ($values.external.postgres.existingSecret | default $secret)) }}
{{- end }}
{{- if eq .component "gateway" }}
{{ include "verbatim.secretEnv" (dict "name" "AUTH_PUBLIC_KEY" "secret" $secret) }}
{{- end }}
{{- if eq .component "meetings" }}
{{ include "verbatim.secretEnv" (dict "name" "AUTH_PRIVATE_KEY" "secret" $secret) }}
{{ include "verbatim.secretEnv" (dict "name" "WEBHOOK_SIGNING_KEY" "secret" $secret "optional" true) }}
{{- end }}
{{- if and (has .component (list "transcriber" "insights")) $values.openai.existingSecret }}
{{ include "verbatim.secretEnv" (dict "name" "OPENAI_API_KEY" "secret" $values.openai.existingSecret) }}
{{- end }}
{{- end -}}
