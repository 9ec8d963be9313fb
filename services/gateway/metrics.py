"""What the gateway counts. Labels are route templates and codes, never paths, ids or people."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Few, for each route has all of them; both latency alerts need that of 1 s, an objective that of 2.5 s.
_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

REQUESTS = Histogram(
    "http_server_request_duration_seconds",
    "Time from the head of a request to the end of its answer.",
    ["http_request_method", "http_route"],
    buckets=_BUCKETS,
)
# Not a label of the duration: routes times statuses times buckets are ten thousand series (docs/adr/0153).
RESPONSES = Counter(
    "http_server_responses_total", "Requests answered, by status.", ["http_route", "http_response_status_code"]
)
ACTIVE_REQUESTS = Gauge("http_server_active_requests", "Requests being answered.", ["http_request_method"])

TRANSCRIBERS_CONNECTED = Gauge("transcribers_connected", "1 while the relay stream to a transcriber is up.", ["target"])
WS_SESSIONS = Gauge("ws_sessions", "Open live sockets.")
WS_RESUMES = Counter(
    "ws_resumes_total",
    "Sockets that resume: `restored`; `not_found` expired, or another's; `failed`: it comes again.",
    ["result"],
)
for _result in ("restored", "not_found", "failed"):
    WS_RESUMES.labels(_result)
WS_PUSHED_BACK = Counter("ws_pushed_back_total", "Frames read late on purpose, because the client sends too fast.")
VIEWERS = Gauge("viewers", "Open streams of viewers.")
VIEWERS_CUT = Counter(
    "viewers_cut_total",
    "Streams that we ended before the meeting did: `stalled` reads nothing, else the code that the viewer was told.",
    ["reason"],
)
VIEWER_PARTIALS_SKIPPED = Counter("viewer_partials_skipped_total", "Partial texts that a slow viewer did not get.")
FEEDS = Gauge("feeds", "Meetings that somebody follows through this gateway.")
FEED_POLLS = Counter("feed_polls_total", "Looks into the store that nobody had asked for.")
FEED_FAILURES = Counter("feed_failures_total", "Feeds that ended by a failure of ours; their viewers connect again.")
WS_CLOSED = Counter("ws_closed_total", "Live sockets closed by us, by close code.", ["code"])

UPLOADS_ARRIVING = Gauge("uploads_arriving", "Files that are being received.")
UPLOADED_BYTES = Counter("uploads_received_bytes_total", "Bytes of files stored.")
UPLOADS_RECEIVED = Counter("uploads_received_total", "Files stored as a whole, by the end of their name.", ["suffix"])
TRANSCRIPTIONS = Counter("transcriptions_total", "Files transcribed while the caller waited, by format.", ["format"])
UPLOADS_REJECTED = Counter("uploads_rejected_total", "Files not taken, by the code of the answer.", ["code"])
for _suffix in ("mp3", "wav", "ogg", "webm", "mp4", "m4a"):
    UPLOADS_RECEIVED.labels(_suffix)
for _code in ("payload_too_large", "unsupported_media_type", "validation_failed", "rate_limit_exceeded"):
    UPLOADS_REJECTED.labels(_code)
WS_REJECTED = Counter(
    "ws_rejected_total", "Live sockets closed with 1008: what was sent no client needs to send.", ["reason"]
)

RATE_LIMITED = Counter("rate_limited_total", "Requests and sessions denied because of a quota.", ["scope"])
LOAD = Gauge("load", "Cost of the requests under way, in small reads.")
LOAD_MAX = Gauge("load_max", "Cost of the requests that may be under way at once.")
LOAD_SHED = Counter("load_shed_total", "Requests and sessions put off because there was too much to do.", ["priority"])
CONNECTIONS = Gauge("http_server_connections", "Open connections on the public port.")
CONNECTIONS_REFUSED = Counter(
    "http_server_connections_refused_total",
    "Connections that we ended: `crowd` too many of one address, `full` too many of all, `head`, `body`, `read`: slow, "
    "`pipeline`: too many requests ahead of their answers.",
    ["reason"],
)
BUDGET_UNKNOWN = Counter(
    "budget_unknown_total", "Times that something began though nobody could say what its account has used."
)
AUDIO_CHARGED = Counter("audio_charged_seconds_total", "Live audio that was charged to accounts.")
for _scope in ("ip", "account", "starts", "route", "sessions", "audio", "budget"):
    RATE_LIMITED.labels(_scope)
for _priority in ("running", "normal", "heavy"):
    LOAD_SHED.labels(_priority)
for _reason in ("crowd", "full", "head", "body", "read", "pipeline"):
    CONNECTIONS_REFUSED.labels(_reason)
REVOKED_CLOSED = Counter("revoked_closed_total", "Live sockets and viewers closed by a revocation.")
REVOCATION_LOOKS = Counter("revocation_looks_total", "Times that we asked what is revoked.", ["result"])
STALE_CREDENTIALS = Counter(
    "stale_credentials_total", "Credentials taken as last known, because they could not be checked.", ["kind"]
)
