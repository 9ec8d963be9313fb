"""The service level objectives, and the recording rules and alerts that follow from each: one table, one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
PERIOD = "30d"
# Below so many events in an hour a ratio says little: two of twelve are no trend.
EVENTS_MIN = 30
# Alerts of their own, in slo.yaml.
_FAST_ELSEWHERE = "availability|latency|freshness"
_SLOW_ELSEWHERE = "availability"

_REST = 'http_route!~"/transcribe|/api/meetings/.*/live|/api/uploads.*|/v1/.*|/healthz|/readyz"'


@dataclass(frozen=True)
class Slo:
    """An objective over 30 days. `bad` and `total` are PromQL with WINDOW for a range; they count events."""

    name: str
    objective: float
    about: str
    bad: str
    total: str


def _slower(metric: str, than_s: str, where: str = "") -> tuple[str, str]:
    inner = f",{where}" if where else ""
    total = f"sum(increase({metric}_count{{{where}}}[WINDOW]))"
    return f'{total} - sum(increase({metric}_bucket{{le="{than_s}"{inner}}}[WINDOW]))', total


def _slo(name: str, objective: float, about: str, counted: tuple[str, str]) -> Slo:
    return Slo(name, objective, about, *counted)


_HTTP = "http_server_request_duration_seconds"

SLOS = (
    Slo(
        "availability", 0.999, "Requests that are not answered with a failure of ours.",
        'sum(increase(http_server_responses_total{http_response_status_code=~"5.."}[WINDOW])) or vector(0)',
        f"sum(increase({_HTTP}_count[WINDOW]))",
    ),
    _slo("latency", 0.95, "Requests answered within one second.", _slower(_HTTP, "1.0", _REST)),
    _slo("latency_p99", 0.99, "Requests answered within 2.5 seconds.", _slower(_HTTP, "2.5", _REST)),
    Slo(
        "durability", 0.999999, "Seconds of acknowledged audio that are text, silence or a gap.",
        "sum(increase(transcript_unaccounted_seconds_total[WINDOW]))",
        "sum(increase(transcript_closed_audio_seconds_total[WINDOW]))",
    ),
    _slo("freshness", 0.95, "Segments within three seconds of the end of speech.",
         _slower("segment_latency_seconds", "3.0")),
    _slo("freshness_p99", 0.99, "Segments within eight seconds of the end of speech.",
         _slower("segment_latency_seconds", "8.0")),
    _slo("continuity", 0.995, "Clients that were cut off and back within five seconds.",
         _slower("session_resume_seconds", "5.0")),
    Slo(
        "jobs", 0.999, "Jobs that end otherwise than among the dead letters.",
        'sum(increase(jobs_attempts_total{result="dead"}[WINDOW])) or vector(0)',
        'sum(increase(jobs_attempts_total{result=~"completed|failed|dead"}[WINDOW]))',
    ),
    _slo("events", 0.99, "Events handled within ten seconds of their commit.",
         _slower("messaging_delivery_lag_seconds", "10.0")),
)  # fmt: skip


def rules() -> dict[str, Any]:
    """Return the contents of deploy/alerts/budgets.yaml."""
    recorded: list[dict[str, Any]] = []
    budgets: list[dict[str, Any]] = []
    for slo in SLOS:
        labels = {"slo": slo.name}
        recorded += [
            {"record": f"slo:errors:ratio_rate{window}", "labels": labels, "expr": ratio(slo, window)}
            for window in WINDOWS
        ]
        recorded.append({"record": "slo:events:increase1h", "labels": labels, "expr": _over(slo.total, "1h")})
        recorded.append({"record": "slo:objective:ratio", "labels": labels, "expr": f"vector({slo.objective})"})
        spent = ratio(slo, PERIOD)
        budgets.append({"record": "slo:errors:ratio_rate30d", "labels": labels, "expr": spent})
        left = f"1 - ({spent}) / {1 - slo.objective:.6g}"
        budgets.append({"record": "slo:budget:remaining_ratio", "labels": labels, "expr": left})
    return {
        "groups": [
            {"name": "slo-ratios", "interval": "30s", "rules": recorded},
            {"name": "slo-budgets", "interval": "30s", "rules": budgets},
            {"name": "slo-budget-alerts", "rules": [_fast(), _slow(), _lost()]},
        ]
    }


def ratio(slo: Slo, window: str) -> str:
    """Return the share of bad events in a window; none where there are no events."""
    return f"({_over(slo.bad, window)}) / ({_over(slo.total, window)} > 0)"


def _over(counted: str, window: str) -> str:
    return counted.replace("WINDOW", window)


def _burns(factor: float, long: str, short: str, but: str) -> str:
    budget = "on (slo) (1 - slo:objective:ratio)"
    where = f'{{slo!~"{but}"}}'
    return (
        f"(slo:errors:ratio_rate{long}{where} / {budget} > {factor:g} "
        f"and slo:errors:ratio_rate{short}{where} / {budget} > {factor:g})"
    )


def _alert(name: str, expr: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"docs/runbooks/{name}.md",
            "dashboard": "verbatim-overview",
        },
    }


def _fast() -> dict[str, Any]:
    arms = f"{_burns(14.4, '1h', '5m', _FAST_ELSEWHERE)} or {_burns(6, '6h', '30m', _FAST_ELSEWHERE)}"
    return _alert(
        "ErrorBudgetFastBurn",
        f"({arms}) and on (slo) slo:events:increase1h > {EVENTS_MIN}",
        "P2",
        "The error budget of an objective is spent fast",
        "{{ $labels.slo }}: spent {{ $value | humanize }} times as fast as the objective allows.",
    )


def _slow() -> dict[str, Any]:
    return _alert(
        "ErrorBudgetSlowBurn",
        f"{_burns(3, '1d', '2h', _SLOW_ELSEWHERE)} or {_burns(1, '3d', '6h', _SLOW_ELSEWHERE)}",
        "ticket",
        "The error budget of an objective is spent slowly",
        "{{ $labels.slo }}: spent {{ $value | humanize }} times as fast as the objective allows.",
    )


def _lost() -> dict[str, Any]:
    return _alert(
        "SessionAudioMissing",
        "increase(transcript_unaccounted_seconds_total[10m]) > 0",
        "P1",
        "Acknowledged audio is missing from a transcript",
        "{{ $value | humanizeDuration }} of audio are neither text, nor silence, nor a gap.",
    )
