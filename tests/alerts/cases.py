"""When each alert fires and when it does not, as series of samples: one every 15 seconds if nothing else is said.

`fires` makes it fire at `at`; `quiet` is the boundary, a case just as near that must not; `recovers` is `fires` that
ends, after which it must be over at `over`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Series = dict[str, str]

STEP_S = 15


@dataclass(frozen=True)
class Case:
    """One alert. Values are in promtool's notation: `0+20x40` is 41 samples, each 20 above the one before."""

    fires: Series
    quiet: Series
    at: str = "10m"
    over: str = "40m"
    recovers: Series = field(default_factory=dict)
    step_s: int = STEP_S


def _requests(good: float, bad: float, n: int = 4000) -> Series:
    labels = 'service="gateway",http_route="/api/meetings"'
    answered = "http_server_responses_total"
    return {
        f'http_server_request_duration_seconds_count{{{labels},http_request_method="GET"}}': f"0+{good + bad}x{n}",
        f'{answered}{{{labels},http_response_status_code="200"}}': f"0+{good}x{n}",
        f'{answered}{{{labels},http_response_status_code="503"}}': f"0+{bad}x{n}",
    }


def _ending(series: Series, samples: int = 40, then: int = 200) -> Series:
    """The same series up to a moment, and quiet from there on: counters stand still."""
    ended = {}
    for name, values in series.items():
        start, _, rest = values.partition("+")
        step = float(rest.split("x")[0])
        ended[name] = f"{start}+{step:g}x{samples} {float(start) + step * samples:g}+0x{then}"
    return ended


def _latency(fast: float, all_: float, n: int = 4000) -> Series:
    name, labels = "http_server_request_duration_seconds", 'service="gateway",http_route="/api/meetings"'
    return {
        f'{name}_bucket{{{labels},le="1.0"}}': f"0+{fast}x{n}",
        f'{name}_bucket{{{labels},le="2.5"}}': f"0+{all_}x{n}",
        f'{name}_bucket{{{labels},le="+Inf"}}': f"0+{all_}x{n}",
        f"{name}_count{{{labels}}}": f"0+{all_}x{n}",
    }


def _webhooks(delivered: float, failed: float, n: int = 4000) -> Series:
    name = 'webhook_deliveries_total{service="meetings",result='
    return {f'{name}"delivered"}}': f"0+{delivered}x{n}", f'{name}"failed"}}': f"0+{failed}x{n}"}


def _segments(in_time: float, all_: float, n: int = 4000) -> Series:
    return {
        'segment_latency_seconds_bucket{service="transcriber",le="3.0"}': f"0+{in_time}x{n}",
        'segment_latency_seconds_count{service="transcriber"}': f"0+{all_}x{n}",
    }


def _jobs(good: float, dead: float, n: int = 300) -> Series:
    name, labels = "jobs_attempts_total", 'service="insights",kind="insights"'
    return {
        f'{name}{{{labels},result="completed"}}': f"0+{good}x{n}",
        f'{name}{{{labels},result="dead"}}': f"0+{dead}x{n}",
    }


def _gauge(series: str, fires: float, quiet: float, **times: str) -> Case:
    """A gauge that is at one value, at another, or at the first for a while."""
    return Case(
        {series: f"{fires:g}x300"},
        {series: f"{quiet:g}x300"},
        recovers={series: f"{fires:g}x80 {quiet:g}x300"},
        **times,  # type: ignore[arg-type]
    )


def _counter(series: str, fires_per_s: float, quiet_per_s: float, **times: str) -> Case:
    """A counter that grows at one rate, at another, or at the first for a while."""
    firing = {series: f"0+{fires_per_s * STEP_S:g}x300"}
    return Case(
        firing,
        {series: f"0+{quiet_per_s * STEP_S:g}x300"},
        recovers=_ending(firing, 80, 300),
        **times,  # type: ignore[arg-type]
    )


def _surge(series: str, usual_per_h: float, fires_per_h: float, quiet_per_h: float) -> Case:
    """A counter that grows as usual for a day, then faster for good, a little less so, or for two hours."""
    step_s, day, usual = 300, 288, usual_per_h / 12

    def then(per_h: float, *after: str) -> Series:
        return {series: " ".join([f"0+{usual:g}x{day}", f"{usual * day:g}+{per_h / 12:g}x24", *after])}

    ended = f"{usual * day + 2 * fires_per_h:g}+{usual:g}x100"
    return Case(
        then(fires_per_h), then(quiet_per_h), at="25h30m", over="29h", recovers=then(fires_per_h, ended), step_s=step_s
    )


def _books(received: str, durable: str, pending: str, heard: str = "0+3200x300", handed_over: str = "0x300") -> Series:
    """The accounts of a transcriber; what it hears it transcribes at once."""
    of = 'service="transcriber",instance="t"'
    return {
        f'audio_bytes_total{{{of},stage="received"}}': received,
        f'audio_bytes_total{{{of},stage="durable"}}': durable,
        f'audio_bytes_total{{{of},stage="dropped"}}': "640x300",
        f'audio_pending_bytes{{{of},until="durable"}}': pending,
        f'audio_bytes_total{{{of},stage="heard"}}': heard,
        f'audio_bytes_total{{{of},stage="transcribed"}}': "0+3200x300",
        f'audio_bytes_total{{{of},stage="handed_over"}}': handed_over,
        f'audio_pending_bytes{{{of},until="transcribed"}}': "0x300",
    }


_HEALTHY = {
    f'up{{service="{service}",instance="{service}-1"}}': "1x300" for service in ("gateway", "transcriber", "meetings")
}
_POOL = 'db_client_connection_count{service="meetings",instance="m",db_client_connection_pool_name="meetings"'
_POOL_MAX = 'db_client_connection_max{service="meetings",instance="m",db_client_connection_pool_name="meetings"}'
_OPERATION = 'service="meetings",db_operation_name="list meetings"'
_SLOW = "db_client_operation_duration_seconds"

CASES: dict[str, Case] = {
    "SLOFastBurn": Case(
        _requests(970, 30), _requests(1000, 1), "70m", "150m", _ending(_requests(970, 30), 70, 150), 60
    ),
    "SLOSlowBurn": Case(_requests(996, 4), _requests(10000, 9), "3000m", step_s=120),
    "LatencyFastBurn": Case(
        _latency(20, 100), _latency(96, 100), "70m", "150m", _ending(_latency(20, 100), 70, 150), 60
    ),
    "FreshnessFastBurn": Case(
        _segments(20, 100), _segments(96, 100), "70m", "150m", _ending(_segments(20, 100), 70, 150), 60
    ),
    "ErrorBudgetFastBurn": Case(_jobs(90, 10), _jobs(996, 4), "70m", "150m", _ending(_jobs(90, 10), 70, 150), 60),
    "ErrorBudgetSlowBurn": Case(_jobs(996, 4), _jobs(10000, 5), "70m", step_s=60),
    "SessionAudioMissing": _counter('transcript_unaccounted_seconds_total{service="meetings"}', 0.01, 0),
    "HighErrorRate": Case(_requests(98, 2), _requests(991, 9), recovers=_ending(_requests(98, 2))),
    "HighLatencyP95": Case(_latency(90, 100), _latency(96, 100), "12m", recovers=_ending(_latency(90, 100), 60)),
    "LoginBruteForce": _counter('auth_login_failures_total{service="meetings",reason="wrong_password"}', 1.2, 0.9),
    "ModelSpendingFast": _surge('language_model_cost_dollars_total{service="insights"}', 0.12, 6.0, 4.5),
    # Four times as much as usual is much, and the mean of the day has it in already.
    "AudioSpendingFast": _surge('audio_charged_seconds_total{service="gateway"}', 14_400, 90_000, 57_600),
    "RedisFallbackActive": _gauge('redis_fallback_active{service="gateway"}', 1, 0),
    "LoadShedding": _counter('load_shed_total{service="gateway",priority="low"}', 0.2, 0.05),
    "CircuitBreakerOpen": _gauge(
        'circuit_breaker_state{service="transcriber",dependency="openai",state="open"}', 1, 0, at="1m"
    ),
    "CaptionsDegraded": _gauge('captions_degraded{service="transcriber"}', 1, 0),
    "SpeechRateLimited": _counter('speech_rate_limited_total{service="transcriber"}', 0.2, 0.05),
    "RetryBudgetExhausted": _counter(
        'retry_budget_exhausted_total{service="transcriber",dependency="openai"}', 0.05, 0.01, at="15m"
    ),
    "DraftsGivenUp": _counter(
        'transcript_drafts_given_up_total{service="transcriber",reason="too_old"}', 0.01, 0, over="90m"
    ),
    "DraftsNotHealing": Case(
        {
            "session_logs_drafts_oldest_seconds": "3601x300",
            'circuit_breaker_state{dependency="openai",state="closed"}': "1x300",
        },
        {
            "session_logs_drafts_oldest_seconds": "3601x300",
            'circuit_breaker_state{dependency="openai",state="closed"}': "0x300",
        },
        at="20m",
        recovers={
            "session_logs_drafts_oldest_seconds": "3601x100 0x300",
            'circuit_breaker_state{dependency="openai",state="closed"}': "1x400",
        },
    ),
    "AudioUnaccounted": Case(
        _books("3840+3200x300", "0+3200x300", "0x300"),
        # All but what is on its way: more than ever, and accounted for.
        _books("640+3200x300", "0x300", "0+3200x300", heard="6400+3200x300", handed_over="6400x300"),
        at="2m",
        # The process is gone, and its books with it.
        recovers=_books("3840+3200x20 640+3200x300", "0+3200x20 0+3200x300", "0x400"),
    ),
    "SyntheticProbeFailing": Case(
        {"synthetic_probe_success": "1x4 0x300", "synthetic_probe_last_run_timestamp_seconds": "0+15x300"},
        # One round in two fails: people get through.
        {
            "synthetic_probe_success": "1x20 0x20 1x20 0x20 1x20 0x20",
            "synthetic_probe_last_run_timestamp_seconds": "0+15x300",
        },
        at="14m",
        recovers={
            "synthetic_probe_success": "1x4 0x100 1x200",
            "synthetic_probe_last_run_timestamp_seconds": "0+15x300",
        },
    ),
    "SegmentsLost": Case(
        {'transcript_segments_lost_total{service="meetings",instance="m"}': "0x20 1x300"},
        {'transcript_segments_lost_total{service="meetings",instance="m"}': "0x300"},
        at="6m",
        over="30m",
        recovers={'transcript_segments_lost_total{service="meetings",instance="m"}': "0x20 1x300"},
    ),
    "AudioLogFilling": _gauge('audio_log_fill_ratio{service="janitor"}', 0.81, 0.79),
    "DBPoolSaturated": Case(
        {f'{_POOL},db_client_connection_state="used"}}': "14x300", _POOL_MAX: "15x300"},
        {f'{_POOL},db_client_connection_state="used"}}': "13x300", _POOL_MAX: "15x300"},
        recovers={f'{_POOL},db_client_connection_state="used"}}': "14x80 2x300", _POOL_MAX: "15x400"},
    ),
    "SlowQueries": Case(
        {f"{_SLOW}_count{{{_OPERATION}}}": "0+10x300", f'{_SLOW}_bucket{{{_OPERATION},le="1.0"}}': "0+9x300"},
        {f"{_SLOW}_count{{{_OPERATION}}}": "0+10x300", f'{_SLOW}_bucket{{{_OPERATION},le="1.0"}}': "0+10x300"},
        recovers={
            f"{_SLOW}_count{{{_OPERATION}}}": "0+10x80 800+0x300",
            f'{_SLOW}_bucket{{{_OPERATION},le="1.0"}}': "0+9x80 720+0x300",
        },
    ),
    "DatabaseTimeouts": _counter(
        'db_client_connection_timeouts_total{service="meetings",db_client_connection_pool_name="meetings"}', 0.1, 0.01
    ),
    "OutboxLag": _gauge('outbox_oldest_unpublished_seconds{service="meetings"}', 31, 29),
    "ConsumerLag": _gauge('messaging_consumer_pending{service="meetings",consumer="meetings"}', 1001, 999),
    "TranscriptsStoredLate": Case(
        {'transcript_stored_lag_seconds{service="meetings"}': "31x300", "transcript_segments_total": "0+1x300"},
        {'transcript_stored_lag_seconds{service="meetings"}': "31x300", "transcript_segments_total": "7x300"},
        recovers={
            'transcript_stored_lag_seconds{service="meetings"}': "31x80 1x300",
            "transcript_segments_total": "0+1x400",
        },
    ),
    "NobodyStoresTranscripts": _gauge('transcript_consuming{service="meetings",instance="m"}', 0, 1),
    "DLQNotEmpty": _gauge('dead_letters{service="janitor"}', 1, 0),
    "WebhooksFailing": Case(
        _webhooks(delivered=1.0, failed=1.2),
        _webhooks(delivered=1.2, failed=1.0),
        recovers=_ending(_webhooks(delivered=1.0, failed=1.2)),
        over="80m",
    ),
    "BrokerDisconnected": _gauge('nats_connected{service="meetings",instance="m"}', 0, 1),
    "TargetMissing": Case(
        {**_HEALTHY, 'up{service="gateway",instance="gateway-1"}': "0x300"},
        _HEALTHY,
        recovers={**_HEALTHY, 'up{service="gateway",instance="gateway-1"}': "0x80 1x300"},
    ),
    "HighMemory": Case(
        {
            'process_resident_memory_bytes{service="gateway",instance="g"}': "81x300",
            'memory_limit_bytes{service="gateway",instance="g"}': "100x300",
        },
        {
            'process_resident_memory_bytes{service="gateway",instance="g"}': "79x300",
            'memory_limit_bytes{service="gateway",instance="g"}': "100x300",
        },
        recovers={
            'process_resident_memory_bytes{service="gateway",instance="g"}': "81x80 60x300",
            'memory_limit_bytes{service="gateway",instance="g"}': "100x400",
        },
    ),
    "MemoryLeakSuspected": Case(
        {
            'process_resident_memory_bytes{service="gateway",instance="g"}': "1e8+60000x1200",
            'process_start_time_seconds{service="gateway",instance="g"}': "0x1200",
        },
        {
            'process_resident_memory_bytes{service="gateway",instance="g"}': "1e8+30000x1200",
            'process_start_time_seconds{service="gateway",instance="g"}': "0x1200",
        },
        at="200m",
    ),
    "DiskFillingUp": Case(
        {
            'disk_free_bytes{service="janitor",instance="j"}': "14x300",
            'disk_size_bytes{service="janitor",instance="j"}': "100x300",
        },
        {
            'disk_free_bytes{service="janitor",instance="j"}': "16x300",
            'disk_size_bytes{service="janitor",instance="j"}': "100x300",
        },
        recovers={
            'disk_free_bytes{service="janitor",instance="j"}': "14x80 60x300",
            'disk_size_bytes{service="janitor",instance="j"}': "100x400",
        },
    ),
    "EventLoopLag": _gauge('event_loop_lag_seconds{service="gateway",instance="g"}', 0.6, 0.4),
    "FileDescriptorsRunOut": Case(
        {
            'process_open_fds{service="gateway",instance="g"}': "81x300",
            'process_max_fds{service="gateway",instance="g"}': "100x300",
        },
        {
            'process_open_fds{service="gateway",instance="g"}': "79x300",
            'process_max_fds{service="gateway",instance="g"}': "100x300",
        },
        recovers={
            'process_open_fds{service="gateway",instance="g"}': "81x80 10x300",
            'process_max_fds{service="gateway",instance="g"}': "100x400",
        },
    ),
    "JanitorStale": _gauge('janitor_last_run_success{service="janitor",task="sessions"}', 0, 1, at="18m", over="50m"),
    "BackupTooOld": Case(
        {'backup_last_success_timestamp_seconds{service="janitor",instance="j",of="all"}': "1x470"},
        {'backup_last_success_timestamp_seconds{service="janitor",instance="j",of="all"}': "3600x470"},
        at="2180m",
        recovers={'backup_last_success_timestamp_seconds{service="janitor",instance="j",of="all"}': "1x435 130500x50"},
        over="2200m",
        step_s=300,
    ),
    "UploadsRefused": _gauge('disk_tier{service="janitor",instance="j"}', 2, 1),
    "CertificateExpires": _gauge(
        'certmanager_certificate_expiration_timestamp_seconds{namespace="n",name="edge"}',
        13.5 * 86400,
        40 * 86400,
        at="65m",
        over="80m",
    ),
    "ControlOverrideActive": _gauge('controls_active{service="gateway"}', 1, 0, at="65m", over="80m"),
}
