"""What the dashboards show: one entry per panel, with what it means, its unit, and where it becomes a worry."""

from __future__ import annotations

from dataclasses import dataclass, field

RANGE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """`queries` are (legend, PromQL). `worry`, `alarm`: from these values on it is yellow, red. `alerts` page for it."""

    title: str
    about: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    worry: float | None = None
    alarm: float | None = None
    alerts: tuple[str, ...] = ()
    kind: str = "timeseries"


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; its uid is `verbatim-<name>`. `traces` adds a search for traces by meeting or session."""

    name: str
    title: str
    about: str
    panels: tuple[Panel, ...] = field(default=())
    traces: bool = False


def _rate(metric: str, by: str = "", where: str = "") -> tuple[str, str]:
    """Return events per second by a label; of those that are rare, zero where there was none."""
    grouped = f" by ({by})" if by else ""
    return (f"{{{{{by}}}}}" if by else "all", f"sum{grouped} (rate({metric}{{{where}}}[{RANGE}])) or vector(0)")


def _quantiles(metric: str, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    labels = ", ".join(filter(None, ("le", by)))
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"p{round(q * 100)}{legend}",
            f"histogram_quantile({q:g}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{RANGE}])))",
        )
        for q in (0.5, 0.95, 0.99)
    )


def _of(metric: str, by: str, function: str = "sum") -> tuple[str, str]:
    return f"{{{{{by}}}}}", f"{function} by ({by}) ({metric})"


_ROUTE, _STATUS = "http_route", "http_response_status_code"
_HTTP = "http_server_request_duration_seconds"
_POOL = "db_client_connection_pool_name"

OVERVIEW = Dashboard("overview", "Verbatim: overview", "Objectives and what is left of their budgets; is anything down.", (
    Panel("Error budget left", "Share of the last 30 days' budget that is not spent; below zero the objective is missed.",
          "percentunit", (("{{slo}}", "slo:budget:remaining_ratio"),), 0.5, 0.1,
          ("ErrorBudgetFastBurn", "ErrorBudgetSlowBurn", "SLOFastBurn", "SLOSlowBurn"), "bargauge"),
    Panel("Burn rate, one hour", "How many times as fast as allowed each budget is spent; 14.4 ends a month's in two days.",
          "none", (("{{slo}}", "slo:errors:ratio_rate1h / on (slo) (1 - slo:objective:ratio)"),), 1, 14.4,
          ("SLOFastBurn", "LatencyFastBurn", "FreshnessFastBurn")),
    Panel("Objectives", "What is promised, as share of events over 30 days.", "percentunit",
          (("{{slo}}", "slo:objective:ratio"),), kind="table"),
    Panel("Targets up", "Processes whose metrics can be read.", "none", (_of("up", "service"),), kind="stat",
          alerts=("TargetMissing", "Watchdog")),
    Panel("Requests", "Requests per second by status.", "reqps", (_rate("http_server_responses_total", _STATUS),),
          alerts=("HighErrorRate",)),
    Panel("Latency", "Time of requests, without streams and files.", "s",
          _quantiles(_HTTP, where='http_route!~"/transcribe|/api/uploads.*|/v1/.*"'), 0.75, 1.0, ("HighLatencyP95",)),
    Panel("Captions", "From the end of speech to the segment.", "s", _quantiles("segment_latency_seconds"), 3, 8,
          ("FreshnessFastBurn",)),
    Panel("Audio lost", "Acknowledged audio that no transcript accounts for. Anything but zero is an incident.", "s",
          (("lost", "sum(increase(transcript_unaccounted_seconds_total[1h]))"),), 0.001, 0.001, ("SessionAudioMissing",),
          "stat"),
    Panel("Controls set", "Switches that somebody has set and that have not expired.", "none",
          (("set", "max(controls_active)"),), 1, 5, ("ControlOverrideActive",), "stat"),
    Panel("Versions", "What runs.", "none",
          (("{{service}} {{version}}", "count by (service, version) (build_info)"),), kind="table"),
))  # fmt: skip

SESSIONS = Dashboard("sessions", "Verbatim: live sessions", "Meetings that are spoken now.", (
    Panel("Sessions", "In memory of the transcribers, by whether a client is attached.", "none",
          (_of("transcriber_sessions", "attached"),)),
    Panel("Open sockets", "Live sockets and viewers at the gateways.", "none",
          (("live", "sum(ws_sessions)"), ("viewers", "sum(viewers)"))),
    Panel("Audio", "Bytes per second by stage: what is received must become durable.", "Bps",
          (_rate("audio_bytes_total", "stage"),), alerts=("AudioLogFilling",)),
    Panel("Back after a break", "From the loss of a client to its return.", "s",
          (*_quantiles("session_resume_seconds"), _rate("session_resume_seconds_count")), 5, 30),
    Panel("Segments", "Segments per second by quality.", "none", (_rate("transcript_segments_total", "quality"),)),
    Panel("Stored late", "Age of the newest entry when it was committed.", "s",
          (("lag", "max(transcript_stored_lag_seconds)"),), 5, 30, ("TranscriptsStoredLate", "NobodyStoresTranscripts")),
    Panel("Closed by us", "Sockets by close code.", "none", (_rate("ws_closed_total", "code"),)),
    Panel("Taken over", "Sessions adopted from the log, and appends that were fenced off.", "none",
          (_rate("session_adoptions_total", "result"), ("fenced", f"sum(rate(transcript_appends_fenced_total[{RANGE}]))"))),
    Panel("Held in memory", "Audio in memory for all sessions.", "bytes", (("held", "sum(session_buffer_bytes)"),)),
))  # fmt: skip

SPEECH = Dashboard("speech", "Verbatim: speech engines and breaker", "Who hears, how long it takes, what fails.", (
    Panel("Breaker", "1 for the state that each breaker is in.", "none",
          (("{{dependency}} {{state}}", "max by (dependency, state) (circuit_breaker_state)"),),
          alerts=("CircuitBreakerOpen",)),
    Panel("Calls by result", "Calls through the breaker.", "none",
          (("{{dependency}} {{result}}", f"sum by (dependency, result) (rate(circuit_breaker_calls_total[{RANGE}]))"),)),
    Panel("Engine time", "Time of a call, by engine.", "s", _quantiles("speech_engine_seconds", "engine")),
    Panel("Captions are drafts", "1 while the embedded engine writes because the speech API fails.", "none",
          (("degraded", "max(captions_degraded)"),), 1, 1, ("CaptionsDegraded",), "stat"),
    Panel("Drafts by reason", "Why a draft was written.", "none", (_rate("speech_drafts_total", "reason"),)),
    Panel("Drafts that wait", "To be heard again: in memory, in closed sessions.", "none",
          (("live", "sum(transcript_drafts_waiting)"), ("closed", "max(session_logs_drafts_waiting)")),
          alerts=("DraftsNotHealing", "DraftsGivenUp")),
    Panel("Failures", "Failed calls of the speech API by reason.", "none", (_rate("speech_failures_total", "reason"),),
          alerts=("SpeechRateLimited",)),
    Panel("Waiting", "Utterances that wait for an engine.", "none", (_of("speech_waiting", "lane"),)),
    Panel("Retry budget", "Tokens left for second attempts.", "none", (_of("retry_budget_tokens", "dependency", "min"),),
          alerts=("RetryBudgetExhausted",)),
    Panel("Language model", "Time of a call by result.", "s",
          (("p95 {{result}}", "histogram_quantile(0.95, sum by (le, result) "
            f"(rate(language_model_call_duration_seconds_bucket[{RANGE}])))"),)),
))  # fmt: skip

DATABASES = Dashboard("databases", "Verbatim: databases", "Pools, transactions, what waits.", (
    Panel("Pool in use", "Connections in use of those the pool may open.", "percentunit",
          (("{{service}} {{instance}}", "sum by (service, instance) "
            '(db_client_connection_count{db_client_connection_state="used"})'
            " / sum by (service, instance) (db_client_connection_max)"),), 0.7, 0.9, ("DBPoolSaturated",)),
    Panel("Waiting for a connection", "Transactions in line.", "none",
          (_of("db_client_connection_pending_requests", _POOL),), 1, 10, ("DatabaseTimeouts",)),
    Panel("Wait for a connection", "How long.", "s", _quantiles("db_client_connection_wait_time_seconds", _POOL), 0.1, 1),
    Panel("Transactions", "Time by operation, the five slowest.", "s",
          (("{{db_operation_name}}", "topk(5, histogram_quantile(0.95, sum by (le, db_operation_name) "
            f"(rate(db_client_operation_duration_seconds_bucket[{RANGE}]))))"),), 0.5, 1, ("SlowQueries",)),
    Panel("Transactions per second", "By service.", "ops", (_rate("db_client_operation_duration_seconds_count", "service"),)),
    Panel("Slow statements", "By transaction.", "none", (_rate("db_slow_queries_total", "db_operation_name"),),
          alerts=("SlowQueries",)),
    Panel("Begun again", "Transactions repeated, by reason.", "none", (_rate("db_transaction_retries_total", "reason"),)),
    Panel("Outbox", "Age of the oldest event not yet published.", "s",
          (_of("outbox_oldest_unpublished_seconds", "service", "max"),), 5, 30, ("OutboxLag",)),
    Panel("Redis", "1 while memory answers in its place.", "none",
          (("{{instance}}", "max by (instance) (redis_fallback_active)"),), 1, 1, ("RedisFallbackActive",), "stat"),
    Panel("Broker", "1 while connected.", "none", (("{{instance}}", "min by (instance) (nats_connected)"),),
          alerts=("BrokerDisconnected",), kind="stat"),
))  # fmt: skip

JOBS = Dashboard("jobs", "Verbatim: jobs and dead letters", "Work in the background and what was given up.", (
    Panel("Dead letters", "What waits for somebody's decision: `verbatim dlq list`.", "none",
          (("letters", "max(dead_letters)"),), 1, 10, ("DLQNotEmpty",), "stat"),
    Panel("Attempts", "By kind and result.", "none",
          (("{{kind}} {{result}}", f"sum by (kind, result) (rate(jobs_attempts_total[{RANGE}]))"),)),
    Panel("Time of an attempt", "By kind.", "s", _quantiles("jobs_attempt_duration_seconds", "kind")),
    Panel("Queued", "Messages at the broker, those under way included.", "none", (_of("jobs_queued", "kind", "max"),)),
    Panel("Running", "Jobs under way.", "none", (_of("jobs_running", "kind"),)),
    Panel("Oldest that waits", "Age of the oldest job never begun.", "s",
          (_of("jobs_oldest_pending_seconds", "kind", "max"),), 60, 600),
    Panel("Paused", "1 while jobs wait because nearly all of their kind failed.", "none",
          (_of("jobs_paused", "kind", "max"),), 1, 1),
    Panel("Events behind", "Messages that wait for a consumer.", "none",
          (_of("messaging_consumer_pending", "consumer", "max"),), 100, 1000, ("ConsumerLag",)),
    Panel("Delivery", "From an event's commit to the end of its handling.", "s",
          _quantiles("messaging_delivery_lag_seconds", "consumer"), 5, 10),
    Panel("Janitor", "1 if a task's last round went well.", "none", (_of("janitor_last_run_success", "task", "min"),),
          alerts=("JanitorStale",)),
))  # fmt: skip

EDGE = Dashboard("edge", "Verbatim: edge and limits", "Who is let in, who is not, and why.", (
    Panel("Requests by route", "The ten busiest.", "reqps",
          ((f"{{{{{_ROUTE}}}}}", f"topk(10, sum by ({_ROUTE}) (rate({_HTTP}_count[{RANGE}])))"),)),
    Panel("Latency by route", "95th percentile, the ten slowest.", "s",
          ((f"{{{{{_ROUTE}}}}}", f"topk(10, histogram_quantile(0.95, sum by (le, {_ROUTE}) (rate({_HTTP}_bucket[{RANGE}]))))"),)),
    Panel("Refused by limits", "By scope.", "reqps", (_rate("rate_limited_total", "scope"),)),
    Panel("Put off", "Because there was too much to do.", "reqps", (_rate("load_shed_total", "priority"),),
          alerts=("LoadShedding",)),
    Panel("Load", "Cost under way against what may be.", "percentunit",
          (("{{instance}}", "sum by (instance) (load) / sum by (instance) (load_max)"),), 0.7, 0.95),
    Panel("Connections", "Open on the public port.", "none", (("{{instance}}", "sum by (instance) (http_server_connections)"),)),
    Panel("Connections ended", "By reason: slow, or too many.", "none",
          (_rate("http_server_connections_refused_total", "reason"),)),
    Panel("Logins refused", "By reason.", "none", (_rate("auth_login_failures_total", "reason"),), alerts=("LoginBruteForce",)),
    Panel("Files refused", "Uploads by the code of the answer.", "none", (_rate("uploads_rejected_total", "code"),)),
))  # fmt: skip

RESOURCES = Dashboard("resources", "Verbatim: resources", "Memory, disk, processors, file descriptors, event loops.", (
    Panel("Memory", "Resident memory by process.", "bytes",
          (("{{instance}}", "max by (instance) (process_resident_memory_bytes)"),), alerts=("MemoryLeakSuspected",)),
    Panel("Memory of the limit", "Above 80 % a process refuses new sessions.", "percentunit",
          (("{{instance}}", "max by (instance) (process_resident_memory_bytes) / max by (instance) (memory_limit_bytes > 0)"),),
          0.7, 0.8, ("HighMemory",)),
    Panel("Processor", "Seconds of processor per second.", "none",
          (("{{instance}}", f"sum by (instance) (rate(process_cpu_seconds_total[{RANGE}]))"),), 0.8, 0.95),
    Panel("Event loop", "How late the loop comes round.", "s", (("{{instance}}", "max by (instance) (event_loop_lag_seconds)"),),
          0.1, 0.5, ("EventLoopLag",)),
    Panel("Tasks", "In the event loop.", "none", (("{{instance}}", "max by (instance) (asyncio_tasks)"),)),
    Panel("Disk free", "Of the volume for scratch files.", "percentunit",
          (("{{instance}}", "min by (instance) (disk_free_bytes / disk_size_bytes)"),), 0.3, 0.15, ("DiskFillingUp",)),
    Panel("File descriptors", "Open, of those allowed.", "percentunit",
          (("{{instance}}", "max by (instance) (process_open_fds / process_max_fds)"),), 0.6, 0.8, ("FileDescriptorsRunOut",)),
    Panel("Spans", "Sent to the receiver of traces, and lost.", "none", (_rate("trace_spans_exported_total", "result"),)),
    Panel("Sentry", "Events sent.", "none", (_rate("sentry_events_total", "result"),)),
    Panel("Series", "Samples of each scrape.", "none", (("{{instance}}", "max by (instance) (scrape_samples_scraped)"),),
          1500, 2000),
))  # fmt: skip

MEETING = Dashboard("meeting", "Verbatim: one meeting", "The traces of one session or meeting, by its id.", (
    Panel("Captions", "From the end of speech to the segment; a point with a diamond leads to its trace.", "s",
          _quantiles("segment_latency_seconds"), 3, 8),
    Panel("Requests", "A point with a diamond leads to its trace.", "s", _quantiles(_HTTP), 0.75, 1.0),
    Panel("Calls between services", "By method.", "s", _quantiles("rpc_server_call_duration_seconds", "rpc_method")),
), traces=True)  # fmt: skip

DASHBOARDS = (OVERVIEW, SESSIONS, SPEECH, DATABASES, JOBS, EDGE, RESOURCES, MEETING)
