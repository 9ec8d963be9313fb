"""Every metric of the meetings service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SEGMENTS_STORED = Counter(
    "transcript_segments_stored_total", "Segments committed, each revision once, by quality.", ["quality"]
)
SEGMENTS_LOST = Counter(
    "transcript_segments_lost_total",
    "Segments that a session's accounts tell of when it is closed and that were never stored.",
)
REPEATS = Counter("transcript_segments_duplicate_dropped_total", "Segments delivered again, dropped.")
DEAD_LETTERS = Counter(
    "transcript_entries_dead_lettered_total",
    "Entries that could not be applied. reason: unreadable, orphan, refused.",
    ["reason"],
)
STORED_LAG_S = Gauge(
    "transcript_stored_lag_seconds",
    "Age of the newest entry of a batch when it was committed, or of the oldest of one that could not be.",
)
UNACCOUNTED_S = Counter(
    "transcript_unaccounted_seconds_total",
    "Audio of closed sessions that was acknowledged and is neither text, nor silence, nor a gap: lost.",
)
CLOSED_AUDIO_S = Counter("transcript_closed_audio_seconds_total", "Audio of closed sessions.")
MEETINGS_COMPLETED = Counter("meetings_completed_total", "Meetings of which every session is closed and stored.")
CONSUMING = Gauge("transcript_consuming", "1 while this replica is the one that stores transcripts.")
EDITS = Counter(
    "transcript_edits_total", "Changes that people made in transcripts. what: segment, speaker (a renaming).", ["what"]
)
for _what in ("segment", "speaker"):
    EDITS.labels(_what)
EXPORTS = Counter("meeting_exports_total", "Exports begun.", ["format"])
TASKS_FOUND = Counter("tasks_from_insights_total", "Tasks found in transcripts and stored.")
LOGIN_FAILURES = Counter(
    "auth_login_failures_total",
    "Logins refused. reason: unknown_account, wrong_password, wrong_current_password, disabled, too_many_tries, busy, "
    "refresh_(unknown, expired, revoked, reused).",
    ["reason"],
)
UPLOADS = Counter("uploads_total", "Uploads by how their job ended: completed, refused or dead.", ["result"])
for _result in ("completed", "refused", "dead"):
    UPLOADS.labels(_result)
TRIES_REFUSED = Counter(
    "auth_tries_refused_total",
    "Tries that were not looked at, because there were too many. what: login, register, password.",
    ["what"],
)
MEETINGS_OF_DEPARTED = Counter("meetings_of_deleted_accounts_total", "Meetings deleted with their owner's account.")
EXPIRED_ROWS = Counter("auth_expired_rows_total", "Rows of credentials and tries deleted after their time.", ["table"])
WEBHOOK_DELIVERIES = Counter(
    "webhook_deliveries_total",
    "Attempts to deliver by how they ended: delivered, failed (another comes) or dead (given up).",
    ["result"],
)
for _result in ("delivered", "failed", "dead"):
    WEBHOOK_DELIVERIES.labels(_result)
WEBHOOK_SECONDS = Histogram(
    "webhook_post_duration_seconds", "Time of one request to a webhook.", buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
)
WEBHOOKS_DISABLED = Counter("webhooks_disabled_total", "Webhooks disabled because their deliveries were given up.")
DIGESTS = Counter(
    "digests_total", "Digests renewed: of meetings (search pages, figures), of tasks, of what was deleted.", ["of"]
)
DIGEST_WAITED = Histogram(
    "digest_wait_seconds",
    "Time from a change to the digest that has it, of the change of each round that waited longest.",
    buckets=(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0),
)
