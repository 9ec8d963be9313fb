"""What the meetings service can be told."""

from __future__ import annotations

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator

from chassis.settings import DatabaseSettings

_KEY_CHARS_MIN = 32


class Settings(DatabaseSettings):
    """Settings of the meetings service."""

    database_url_meetings: SecretStr = Field(
        description="Its database, postgresql://user:password@host/name; several hosts (a:5432,b:5432): a primary and "
        "its standbys, of which the one that takes writes is used."
    )
    database_direct_url_meetings: SecretStr = Field(
        SecretStr(""), description="The database itself, if the other is a PgBouncer in transaction mode."
    )
    auth_private_key: SecretStr = Field(
        description="Ed25519 private key (PEM, PKCS 8) that signs access tokens; line breaks may be written as \\n."
    )
    grpc_host: str = Field("127.0.0.1", description="Address of the gRPC port.")
    grpc_port: int = Field(50052, ge=0, le=65535, description="Port for calls from other services.")
    access_token_life_s: int = Field(900, ge=5, le=3600, description="Life of an access token.")
    refresh_token_life_s: int = Field(
        30 * 86400, ge=3600, le=365 * 86400, description="Life of a refresh token; each use gives a new one."
    )
    password_workers: int = Field(
        2, ge=1, le=16, description="Passwords hashed at once; each takes PASSWORD_HASH_MIB and about 0.2 s."
    )
    password_hash_mib: int = Field(
        64, ge=19, le=1024, description="Memory of one hash (argon2id). Old hashes are made anew at the next login."
    )
    password_hash_passes: int = Field(
        3, ge=2, le=10, description="How often a hash goes through its memory (argon2id)."
    )
    password_queue_max: int = Field(
        32, ge=1, le=1000, description="Passwords that wait for a worker; beyond it callers are told to come later."
    )
    registration_open: bool = Field(True, description="Whether people may open accounts; else an admin does.")
    login_life_s: int = Field(
        90 * 86400, ge=3600, le=365 * 86400, description="Longest time from a login to the next, however often renewed."
    )
    refresh_grace_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="How long a refresh token may be shown again whose answer got lost.",
    )
    login_tries: int = Field(
        5, ge=1, le=1000, description="Failed logins in 15 minutes from one address, or from one device that is known."
    )
    login_tries_of_account: int = Field(
        20,
        ge=1,
        le=1000,
        description="Failed logins in 15 minutes to one account from all unknown networks together.",
    )
    login_pause_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="First pause of an account towards a network after LOGIN_TRIES failures; each doubles it.",
    )
    login_pause_max_s: float = Field(86400.0, gt=0, le=7 * 86400, description="Longest such pause.")
    registrations_per_hour: int = Field(3, ge=1, le=10_000, description="Accounts opened in an hour from one address.")
    transcriber_target: str = Field(
        "127.0.0.1:9200", description="Where transcribers of uploaded files listen, as gRPC writes it."
    )
    upload_concurrency: int = Field(2, ge=1, le=64, description="Uploads that one replica sees to at one time.")
    upload_attempts_max: int = Field(5, ge=1, le=20, description="Attempts until an upload is given up.")
    upload_retry_delays_s: tuple[float, ...] = Field(
        (5.0, 10.0, 30.0, 60.0), min_length=1, description="Pauses between attempts at an upload, as a JSON list."
    )
    upload_deadline_s: float = Field(6 * 3600.0, gt=0, description="Longest time of one attempt at an upload.")
    upload_life_s: float = Field(86_400.0, ge=60, description="How long a file may take to arrive, pauses included.")
    uploads_per_account: int = Field(20, ge=1, description="Uploads of one account under way.")
    upload_bytes_per_account: int = Field(1024**3, ge=1, description="Bytes of the uploads of one account under way.")
    webhooks_per_account: int = Field(20, ge=1, le=1000, description="Webhooks of one account.")
    webhook_attempts_max: int = Field(3, ge=1, le=20, description="Attempts until a delivery to a webhook is given up.")
    webhook_retry_delays_s: tuple[float, ...] = Field(
        (5.0, 10.0), min_length=1, description="Pauses between attempts at a delivery, as a JSON list."
    )
    webhook_timeout_s: float = Field(5.0, gt=0, le=60, description="Longest time of one request to a webhook.")
    webhook_concurrency: int = Field(16, ge=1, le=256, description="Deliveries that one replica makes at one time.")
    webhook_failures_max: int = Field(
        10, ge=1, le=1000, description="Deliveries given up in a row after which a webhook is disabled."
    )
    webhook_secret_overlap_s: float = Field(
        86_400.0, ge=0, le=30 * 86400, description="How long the secret before signs too after a rotation."
    )
    webhook_signing_key: SecretStr = Field(
        SecretStr(""),
        description="Key from which the secrets of webhooks follow, at least 32 characters; empty: SERVICE_AUTH_KEY. "
        "Whoever changes it changes the secrets of all webhooks.",
    )
    webhook_allow_http: bool = Field(False, description="Whether webhooks may be called without TLS.")
    webhook_allowed_networks: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Networks that webhooks may lead to though they are private or reserved, as a JSON list; "
        'for development: ["127.0.0.0/8"].',
    )
    edits_rest_s: float = Field(
        30.0, gt=0, le=3600, description="How long a transcript that people change rests before minutes are made again."
    )
    digest_every_s: float = Field(
        2.0, gt=0, le=600, description="Pause between looks for what changed, for search and analytics."
    )
    digest_live_every_s: float = Field(
        60.0, ge=0, le=3600, description="How often a meeting that goes on is digested for search and analytics."
    )

    @field_validator("webhook_signing_key")
    @classmethod
    def _be_long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < _KEY_CHARS_MIN:
            raise ValueError(f"must have at least {_KEY_CHARS_MIN} characters")
        return value
