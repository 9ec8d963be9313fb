"""The written procedures as data: what each runbook has done first, in the words of the control plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Set one control. `name` and `about` may hold `{target}`; the control ends by itself after `for_s` seconds."""

    about: str
    name: str
    value: str
    for_s: float


@dataclass(frozen=True)
class Procedure:
    """What to do first. `target` says what it needs to be told; `verify` is a query that shows whether it helped."""

    about: str
    steps: tuple[Step, ...]
    verify: str
    runbook: str
    target: str = ""


PROCEDURES: Mapping[str, Procedure] = {
    "pool-exhaustion": Procedure(
        "Replace all connections of a database's pool: idle ones at once, those in use when their transaction ends.",
        (Step("replace the connections to {target}", "pool.{target}", "now", 60),),
        'db_client_connection_count{db_client_connection_state="used"}',
        "DBPoolSaturated",
        "database: meetings or insights",
    ),
    "memory-leak": Procedure(
        "Drain one replica, so that it starts anew; its sessions and calls go to others first.",
        (Step("drain {target}", "drain.{target}", "now", 300),),
        "process_resident_memory_bytes",
        "MemoryLeakSuspected",
        "replica, as its log lines name it",
    ),
    "drain": Procedure(
        "Drain one replica: it takes nothing new, hands over what it has, and ends.",
        (Step("drain {target}", "drain.{target}", "now", 300),),
        "up",
        "EventLoopLag",
        "replica, as its log lines name it",
    ),
    "speech-outage": Procedure(
        "Keep calls away from the speech API for half an hour: captions go on as drafts and heal afterwards.",
        (Step("open the breaker", "breaker.openai", "open", 1800),),
        'circuit_breaker_state{state="open"}',
        "CircuitBreakerOpen",
    ),
    "speech-back": Procedure(
        "Let calls to the speech API through again, whatever the breaker has seen, for ten minutes.",
        (Step("close the breaker", "breaker.openai", "closed", 600),),
        "captions_degraded",
        "CircuitBreakerOpen",
    ),
    "partials-off": Procedure(
        "Make no partial texts for an hour, which cost most of the calls; captions come when a sentence is over.",
        (Step("switch partial texts off", "feature.partials", "off", 3600),),
        "sum(rate(speech_rate_limited_total[5m]))",
        "SpeechRateLimited",
    ),
    "flood": Procedure(
        "Limit every address and account to a part of its quota for an hour.",
        (Step("aggressive limits", "rate_limits", "aggressive", 3600),),
        "sum by (scope) (rate(rate_limited_total[5m]))",
        "LoadShedding",
    ),
    "caches": Procedure(
        "Have every gateway forget what it remembers of API keys, of an issuer's keys and of the last answers.",
        (Step("drop the caches", "caches", "now", 60),),
        "sum(rate(http_server_request_duration_seconds_count[1m]))",
        "HighErrorRate",
    ),
    "debug": Procedure(
        "Log everything of one service, or of one replica, for ten minutes.",
        (Step("log level of {target}", "log_level.{target}", "DEBUG", 600),),
        "up",
        "HighErrorRate",
        "service or replica",
    ),
}
# The alerts whose runbook begins with one of them.
OF_ALERT = {
    "DBPoolSaturated": "pool-exhaustion", "DatabaseTimeouts": "pool-exhaustion", "HighMemory": "memory-leak",
    "MemoryLeakSuspected": "memory-leak", "FileDescriptorsRunOut": "memory-leak", "EventLoopLag": "drain",
    "CircuitBreakerOpen": "speech-outage", "CaptionsDegraded": "speech-back", "SpeechRateLimited": "partials-off",
    "LoadShedding": "flood",
    "LoginBruteForce": "flood", "HighErrorRate": "debug",
}  # fmt: skip
