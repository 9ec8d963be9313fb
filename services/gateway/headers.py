"""The header fields that every answer gets, whoever makes it."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]

# The page loads what it needs from here and nowhere else: scripts, styles, the audio worklet; a WebSocket to the host
# that it came from is `self` as well. Media and pictures it may also make itself.
PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
    b"media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    # Browsers heed it only where it came over TLS.
    (b"strict-transport-security", b"max-age=31536000"),
]
_EXPOSED = b"ETag, Idempotent-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"

PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, If-Match, X-Request-ID"),
    (b"access-control-max-age", b"600"),
]


def for_answer(request_id: str, *, page: bool) -> Headers:
    """Return the fields of every answer."""
    return [
        (b"x-request-id", request_id.encode()),
        (b"content-security-policy", PAGE_POLICY if page else DATA_POLICY),
        *_SECURITY,
    ]


def for_origin(origin: bytes) -> Headers:
    """Return the fields that let the page of an allowed origin read an answer. It never sends cookies."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]
