"""Every metric of the transcriber, with unit and labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

AUDIO_BYTES = Counter(
    "audio_bytes_total",
    "Bytes by stage, which add up. Of what clients send: received = durable + repeated + refused + dropped + pending. "
    "Of PCM in it: heard = transcribed + silence + unrecognised + handed_over + pending. Besides: gap, never came.",
    ["stage"],
)
# Looked up once: they are counted for every frame.
AUDIO_RECEIVED, AUDIO_HEARD, AUDIO_DURABLE = (AUDIO_BYTES.labels(stage) for stage in ("received", "heard", "durable"))
AUDIO_REPEATED, AUDIO_REFUSED, AUDIO_DROPPED = (
    AUDIO_BYTES.labels(stage) for stage in ("repeated", "refused", "dropped")
)
AUDIO_SILENCE, AUDIO_HANDED_OVER = (AUDIO_BYTES.labels(stage) for stage in ("silence", "handed_over"))
AUDIO_PENDING = Gauge(
    "audio_pending_bytes", "Bytes on their way now: received and not yet durable, heard and not yet transcribed.",
    ["until"],
)  # fmt: skip
AUDIO_APPEND_FAILURES = Counter(
    "audio_append_failures_total", "Appends to the audio log that failed and were repeated."
)
SESSIONS = Gauge("transcriber_sessions", "Sessions in memory, by whether a client is attached.", ["attached"])
SESSION_BUFFER = Gauge("session_buffer_bytes", "Audio held in memory for all sessions.")
ADOPTIONS = Counter("session_adoptions_total", "Sessions taken over from the log.", ["result"])
SESSION_FAILURES = Counter("session_failures_total", "Sessions that ended by a failure of ours; clients resume.")
FENCED = Counter("transcript_appends_fenced_total", "Appends refused because another transcriber owns the session.")
SNAPSHOTS = Counter(
    "transcript_snapshots_total", "Sessions written again from memory because somebody had deleted the transcript log."
)
SEGMENTS = Counter("transcript_segments_total", "Segments committed to the log.", ["engine", "quality"])
HEALED = Counter(
    "transcript_segments_healed_total", "Drafts replaced by what a better engine heard, by the state of their session.",
    ["session"],
)  # fmt: skip
HEAL_LAG = Histogram(
    "transcript_heal_lag_seconds", "From a draft to its revision.",
    buckets=(5, 15, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 86_400),
)  # fmt: skip
DRAFTS_WAITING = Gauge("transcript_drafts_waiting", "Drafts of the sessions in memory that will be heard again.")
DRAFTS_GIVEN_UP = Counter(
    "transcript_drafts_given_up_total",
    "Drafts that stay drafts: too old, no space for their audio, audio gone, refused, or there is no better engine.",
    ["reason"],
)
SUPPRESSED = Counter("transcript_suppressed_total", "Utterances whose text was judged to be no speech.", ["reason"])
SEGMENT_LATENCY = Histogram(
    "segment_latency_seconds",
    "From the end of speech (as audio received) to the segment sent, endpoint silence included.",
    buckets=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0),
)
RESUMED_AFTER = Histogram(
    "session_resume_seconds",
    "From the loss of a session's client to its return; of one that never came back, to the end of the session.",
    buckets=(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
SEGMENT_OVERHEAD = Histogram(
    "segment_overhead_seconds",
    "What the platform adds between the cut of an utterance and its segment, engine time and queue taken out.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
ENGINE_SECONDS = Histogram(
    "speech_engine_seconds", "Time of one recognition.", ["engine", "purpose", "result"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0),
)  # fmt: skip
SPEECH_LIMIT = Gauge("speech_concurrency_limit", "Recognitions that may run at one time, as adapted.", ["engine"])
SPEECH_WAITING = Gauge("speech_waiting", "Utterances that wait for their turn at an engine.", ["engine", "lane"])
SPEECH_FAILURES = Counter("speech_failures_total", "Calls to the speech API that failed, by reason.", ["reason"])
SPEECH_RATE_LIMITED = Counter("speech_rate_limited_total", "Answers of the speech API that asked for patience (429).")
DRAFTS = Counter("speech_drafts_total", "Utterances that the embedded engine wrote because of this.", ["reason"])
DRAFTS_EMPTY = Counter("speech_drafts_empty_total", "Drafts without text: the embedded engine could not help either.")
DEGRADED = Gauge("captions_degraded", "1 while live captions are drafts because the speech API cannot be used.")
PARTIALS = Counter("partials_total", "Partial texts sent.")
CAPTIONS_DROPPED = Counter("captions_dropped_total", "Partial texts and states that viewers did not get.")


DECODED_SECONDS = Counter("media_decoded_seconds_total", "Sound in files that were decoded.")
DECODE_KILLED = Counter(
    "media_decode_killed_total",
    "Decoders that did not end by themselves: `means` took too much, `clock` took too long, `crash` died.",
    ["reason"],
)
DECODE_PEAK = Histogram(
    "media_decode_peak_bytes", "Most memory that the decoder of one file held; of those that ended by themselves.",
    buckets=tuple(mib * 1024**2 for mib in (64, 100, 150, 200, 300, 400, 600, 800)),
)  # fmt: skip
UNREADABLE = Counter("media_unreadable_total", "Files that cannot be transcribed, by what is wrong.", ["reason"])
RECORDINGS = Gauge("transcriber_recordings", "Recordings being transcribed.", ["purpose"])

for _session in ("live", "closed"):
    HEALED.labels(_session)
for _reason in ("age", "space", "no_audio", "refused", "no_engine"):
    DRAFTS_GIVEN_UP.labels(_reason)
for _stage in ("transcribed", "unrecognised", "gap"):
    AUDIO_BYTES.labels(_stage)
for _reason in ("rate_limited", "quota", "unauthorized", "rejected", "timeout", "connection", "server", "malformed"):
    SPEECH_FAILURES.labels(_reason)
for _attached in ("yes", "no"):
    SESSIONS.labels(_attached)
for _reason in ("means", "clock", "crash"):
    DECODE_KILLED.labels(_reason)
