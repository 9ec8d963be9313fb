"""Each fault that somebody is told of: what breaks, which alerts tell it, and the lines of their runbooks that mend it.

A row of the fault matrix may have several alerts. `also` may page as well: what the same fault does to others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.observe import faults
from tests.observe.faults import Inject


@dataclass(frozen=True)
class Scenario:
    """`repairs` are (page, line as it stands there), typed in order; empty: it ends by itself, or others mend it."""

    row: str
    fault: str
    inject: Inject
    alerts: tuple[str, ...]
    repairs: tuple[tuple[str, str], ...] = ()
    mended_by: str = ""
    also: frozenset[str] = field(default=frozenset())
    fires_within_s: float = 90.0
    resolves_within_s: float = 150.0

    @property
    def repaired(self) -> str:
        """Say by what it was repaired."""
        lines = "; ".join(f"`{line}`" for _, line in self.repairs)
        return "; ".join(filter(None, (self.mended_by, lines)))


_END_SESSION = "SELECT pg_terminate_backend(<pid>);"
_END_IDLE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
    "AND now() - state_change > interval '1 minute';"
)

SCENARIOS = (
    Scenario(
        "19", "Redis killed", faults.killed("redis"), ("RedisFallbackActive",),
        (("RedisFallbackActive", "kubectl rollout restart deployment/verbatim-redis"),),
    ),
    Scenario(
        "28", "NATS killed", faults.killed("nats"), ("BrokerDisconnected",),
        (("BrokerDisconnected", "kubectl rollout restart statefulset/verbatim-nats"),),
    ),
    Scenario(
        "25d", "the gateway frozen", faults.frozen("gateway"), ("TargetMissing",),
        (("TargetMissing", "kubectl delete pod <pod>"),),
    ),
    Scenario(
        "6", "the speech API answers 503; the breaker would stay open for ten minutes", faults.vendor(503),
        ("CircuitBreakerOpen",),
        (
            (
                "CircuitBreakerOpen",
                'verbatim admin controls set breaker.openai closed --for 30m --why "vendor is well"',
            ),
        ),
        mended_by="the vendor",
    ),
    Scenario(
        "4", "the speech API answers 429", faults.vendor(429), ("SpeechRateLimited",),
        mended_by="the vendor", also=frozenset({"CircuitBreakerOpen"}),
    ),
    Scenario(
        "2, 3", "a console holds locks on two tables, idle in its transaction", faults.tables_locked,
        (
            "DBPoolSaturated", "SlowQueries", "DatabaseTimeouts", "HighLatencyP95", "SLOFastBurn",
            "TranscriptsStoredLate",
        ),
        # HighErrorRate is kept quiet by SLOFastBurn.
        (("DBPoolSaturated", _END_IDLE),), also=frozenset({"HighErrorRate"}), fires_within_s=240.0,
        resolves_within_s=300.0,
    ),
    Scenario(
        "24", "a stranger's session holds the lock of who stores transcripts",
        faults.lock_taken(faults.TRANSCRIPT_LOCK),
        ("NobodyStoresTranscripts",), (("NobodyStoresTranscripts", _END_SESSION),),
    ),
    Scenario(
        "29", "a stranger's session holds the lock of the outbox's relay",
        faults.lock_taken(faults.RELAY_LOCK, talk=True), ("OutboxLag",), (("OutboxLag", _END_SESSION),),
        also=frozenset({"SLOFastBurn"}), fires_within_s=150.0,  # the budget remembers the scenarios before
    ),
    Scenario(
        "43", "the broker loses a segment before it is stored", faults.entry_lost, ("SegmentsLost",),
        (("SegmentsLost", "kubectl scale deployment/verbatim-janitor --replicas=0"),), mended_by="ends with its window",
        also=frozenset({"NobodyStoresTranscripts", "TargetMissing", "SessionAudioMissing"}), resolves_within_s=240.0,
    ),
    Scenario(
        "20", "an event that nobody can read", faults.event_unreadable, ("DLQNotEmpty",),
        (("DLQNotEmpty", "verbatim dlq discard <id>"),),
    ),
    Scenario(
        "15", "four logins per second with guessed passwords", faults.passwords_guessed, ("LoginBruteForce",),
        (("LoginBruteForce", 'verbatim admin controls set rate_limits aggressive --for 2h --why "brute force"'),),
    ),
    Scenario(
        "39", "an event loop blocked for most of each second", faults.loop_blocked, ("EventLoopLag",),
        (("EventLoopLag", "kubectl delete pod <pod>"),), also=frozenset({"TargetMissing"}),
    ),
    Scenario(
        "40", "a process may open 8 more files", faults.descriptors_short, ("FileDescriptorsRunOut",),
        (("FileDescriptorsRunOut", "kubectl delete pod <pod>"),),
    ),
    Scenario(
        "18", "a watched volume 98 % full", faults.disk_full, ("DiskFillingUp", "UploadsRefused"),
        (
            (
                "DiskFillingUp",
                "kubectl patch pvc data-verbatim-nats-0 --patch "
                '\'{"spec":{"resources":{"requests":{"storage":"40Gi"}}}}\'',
            ),
        ),
        resolves_within_s=480.0,  # the forecast remembers for as long as its window is
    ),
    Scenario(
        "24", "the only transcriber killed: the probe cannot speak", faults.killed("transcriber"),
        ("TargetMissing", "SyntheticProbeFailing"),
        (("SyntheticProbeFailing", "kubectl rollout restart deployment/verbatim-transcriber"),), fires_within_s=240.0,
        also=frozenset({"BrokerDisconnected"}),  # of the one that starts, on a busy machine
    ),
    Scenario(
        "–", "the last good backup is two days old", faults.backup_old, ("BackupTooOld",),
        (("BackupTooOld", "kubectl create job --from=cronjob/verbatim-backup backup-now"),),
    ),
    Scenario(
        "–", "a control set and forgotten", faults.control_set("log_level", "WARNING"), ("ControlOverrideActive",),
        (("ControlOverrideActive", 'verbatim admin controls unset <name> --why "over"'),),
    ),
)  # fmt: skip
