"""What the janitor counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RUNS = Counter("janitor_runs_total", "Rounds of a task, by how they ended.", ["task", "result"])
LAST_RUN = Gauge("janitor_last_run_timestamp_seconds", "When a task's last round ended.", ["task"])
LAST_SUCCESS = Gauge("janitor_last_run_success", "1 if a task's last round went well, else 0.", ["task"])
DURATION = Histogram(
    "janitor_run_duration_seconds", "Time of a round.", ["task"], buckets=(0.01, 0.1, 0.5, 1, 5, 30, 60)
)

FILES_REMOVED = Counter("janitor_files_removed_total", "Temporary files removed.")
UPLOADS_REMOVED = Counter("janitor_uploads_removed_total", "Files in the object store that nobody needed.")
BYTES_REMOVED = Counter("janitor_removed_bytes_total", "Bytes of temporary files removed.")

DISK_FREE = Gauge("disk_free_bytes", "Bytes free for us on the fullest of the watched file systems.")
DISK_SIZE = Gauge("disk_size_bytes", "Size of that file system.")
DISK_TIER = Gauge("disk_tier", "0: fine, 1: cleaned more than usual, 2: uploads are refused.")
FILES_IN_USE = Counter("janitor_files_in_use_total", "Old temporary files that were kept because somebody uses them.")
MEMORY_FREED = Counter("janitor_memory_freed_bytes_total", "Memory that the janitor gave back to the system.")
# By what it holds, so that there is no series before there is anything to tell.
LAST_BACKUP = Gauge("backup_last_success_timestamp_seconds", "When the last good backup ended.", ["of"])
LAST_BACKUP_BYTES = Gauge("backup_last_size_bytes", "Size of the last good backup.", ["of"])
SESSIONS_FINISHED = Counter("janitor_sessions_finished_total", "Sessions without an owner that were finished.")
LOGS_PURGED = Counter(
    "janitor_logs_purged_total", "Sessions whose logs were removed: stored and healed, or of a deleted meeting."
)
DRAFTS_WAITING = Gauge("session_logs_drafts_waiting", "Drafts of closed sessions that wait to be heard again.")
DRAFTS_OLDEST_S = Gauge(
    "session_logs_drafts_oldest_seconds", "Since when nothing was written to the log that has waited longest of these."
)
AUDIO_SHARE = Gauge("audio_log_fill_ratio", "How full the audio log is, of its limit.")
OPEN_SESSIONS = Gauge("session_logs_open", "Sessions whose log is not closed.")
DEAD_LETTERS = Gauge("dead_letters", "Messages among the dead letters, but for those to webhooks.")
WEBHOOK_LETTERS = Gauge("dead_letters_webhooks", "Deliveries to webhooks among the dead letters.")
