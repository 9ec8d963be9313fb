"""What the gateway can be told, from the environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from chassis.limits import Quota
from chassis.settings import ServiceSettings
from services.gateway.access_tokens import public_keys
from services.gateway.addresses import Proxies
from services.gateway.admission import SessionLimits
from services.gateway.captcha import WHERE
from services.gateway.limits import Rules, rates, route_rates

# From an environment variable: parts between commas, not JSON.
Listed = Annotated[tuple[str, ...], NoDecode]


class Settings(ServiceSettings):
    """Settings of the gateway."""

    host: str = Field("127.0.0.1", description="Address of the public port.")
    port: int = Field(8000, ge=0, le=65535, description="Public port.")
    transcriber_targets: Listed = Field(
        min_length=1,
        description="Transcribers as host:port, comma-separated, or one dns:///name:port that resolves to all of them.",
    )
    meetings_target: str = Field(min_length=1, description="Where the meetings service listens, as gRPC writes it.")
    insights_target: str = Field(min_length=1, description="Where the insights service listens, as gRPC writes it.")
    auth_public_key: str = Field(
        description="Ed25519 public key (PEM) that checks access tokens; while keys change, the old and the new one."
    )
    oidc_issuer: str = Field("", description="Issuer of OpenID Connect tokens that are accepted too; empty: none.")
    oidc_audience: str = Field("", description="Audience that such tokens must be for; needed with OIDC_ISSUER.")
    oidc_jwks_url: str = Field(
        "", description="Where the issuer's keys are; empty: as its /.well-known/openid-configuration says."
    )
    captcha_verify_url: str = Field(
        "",
        description="Where CAPTCHA responses are checked (`siteverify`); empty: there is no CAPTCHA.",
    )
    captcha_secret: SecretStr = Field(SecretStr(""), description="Our secret at the CAPTCHA service.")
    captcha_where: Listed = Field(
        ("register",), description="What needs a solved CAPTCHA, comma-separated: register, login."
    )
    revocation_poll_s: float = Field(
        10.0, gt=0, le=25, description="Longest pause between looks for what is revoked, if the broker does not tell."
    )
    fresh_login_s: float = Field(
        900.0, gt=0, le=86400, description="Age of a login at which it may still delete the account."
    )
    allowed_origins: Listed = Field(
        (), description="Origins (https://host) of foreign pages that may call us, comma-separated. Our own page may."
    )
    call_timeout_s: float = Field(5.0, gt=0, le=60, description="Longest call to another service.")
    login_timeout_s: float = Field(
        10.0, gt=0, le=60, description="Longest register or login: these wait for their turn to hash a password."
    )
    export_timeout_s: float = Field(120.0, gt=0, le=3600, description="Longest export of a transcript, end to end.")
    body_bytes_max: int = Field(256 * 1024, ge=1024, le=16 * 1024 * 1024, description="Longest body of a request.")
    upload_bytes_max: int = Field(
        100_000_000, ge=1024, le=10**10, description="Longest file of an upload; refused as soon as it is passed."
    )
    uploads_at_once_max: int = Field(32, ge=1, le=10_000, description="Files that arrive at one replica at one time.")
    whisper_model: str = Field("whisper-1", min_length=1, description="Name that `/v1` knows the engines by.")
    transcription_bytes_max: int = Field(
        25 * 1024**2, ge=1024, le=10**9, description="Longest file that `/v1` transcribes while the caller waits."
    )
    transcription_timeout_s: float = Field(
        590.0, gt=0, le=3600, description="Longest transcription while the caller waits."
    )
    upload_idle_s: float = Field(
        30.0, gt=0, le=3600, description="Longest silence of a client that sends a file; then it is given up."
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis that replicas share limits through; empty: each keeps its share in memory.",
    )
    gateway_replicas: int = Field(
        1, ge=1, le=1000, description="Replicas that share the limits, until Redis has told how many there are."
    )
    rate_limits_ip: str = Field(
        "100/min 1000/h", description="Requests of one address (of IPv6: its /64), as rates; empty: no limit."
    )
    rate_limits_account: str = Field("100/min 1000/h", description="Requests of one account, as rates.")
    rate_limits_routes: str = Field(
        "GET /api/meetings/{id}/export=30/min; POST /api/insights/{id}=20/h",
        description="Further limits of single routes, of the account or else the address, with semicolons between.",
    )
    rate_limits_starts: str = Field("60/h", description="Live sessions that one account begins, as rates.")
    rate_limits_aggressive: float = Field(
        0.2, gt=0, le=1, description="Part of every rate that is left in the aggressive mode."
    )
    load_max: int = Field(
        256,
        ge=8,
        description="Requests under way at once, in small reads (a write is 2, an export 8); beyond it they are put "
        "off, those that cost most first.",
    )
    request_timeout_s: float = Field(
        30.0, gt=0, le=600, description="Longest request, all its calls together; streams and files have their own."
    )
    connections_max: int = Field(10_000, ge=10, description="Most open connections on the public port.")
    connections_per_ip_max: int = Field(
        256, ge=1, description="Most open connections of one address, sockets included; trusted proxies have no limit."
    )
    head_timeout_s: float = Field(10.0, gt=0, le=300, description="Longest time from a connection to a request's head.")
    head_bytes_max: int = Field(
        32 * 1024, ge=1024, le=1024 * 1024, description="Longest head of a request: first line and header fields."
    )
    body_bytes_per_s_min: int = Field(
        512, ge=1, description="Slowest body, over five seconds; below it the connection is cut."
    )
    unread_timeout_s: float = Field(
        30.0, gt=0, le=600, description="Longest time that a client may leave an answer unread."
    )
    allowed_hosts: Listed = Field(
        (), description="Names that we are reached by, comma-separated; a request for another is refused. Empty: any."
    )
    trusted_proxies: Listed = Field(
        (),
        description="Addresses or networks (CIDR) of proxies in front of us, comma-separated. Only from these is "
        "X-Forwarded-For believed.",
    )
    notice_s: float = Field(
        3.0,
        ge=0,
        le=600,
        description="Time between SIGTERM (from when on readiness says no) and the end of taking new work: what load "
        "balancers need to notice. With LIVE_DRAIN_S and REQUEST_DRAIN_S less than DRAIN_S.",
    )
    request_drain_s: int = Field(
        10, ge=1, le=3600, description="What requests under way get to finish when no new ones are taken any more."
    )

    live_drain_s: float = Field(
        5.0, gt=0, le=3600, description="What live sockets get to close when no new ones are taken any more."
    )
    sessions_max: int = Field(
        2000, ge=1, description="Live sessions on this replica; resumed ones may be a fifth more."
    )
    audio_minutes_per_month: int = Field(
        0,
        ge=0,
        description="Audio of one account in a calendar month (UTC), live and recorded, after which it can begin "
        "neither sessions nor uploads; 0: no limit.",
    )
    budget_timeout_s: float = Field(
        1.0, gt=0, le=10, description="How long a session waits to learn what its account has used; then it begins."
    )
    sessions_per_account: int = Field(50, ge=1, description="Live sessions of one account on all replicas.")
    audio_minutes_per_day: int = Field(
        6000,
        ge=0,
        description="Live audio of one account in any 24 hours, after which it can begin no session; 0: no limit.",
    )
    token_grace_s: float = Field(
        30.0, ge=0, le=3600, description="Life of a live socket after its access token has expired."
    )
    heartbeat_s: float = Field(
        20.0,
        ge=1,
        le=60,
        description="Pause between pings on a live socket; no answer for as long closes it.",
    )

    viewers_max: int = Field(500, ge=1, le=100_000, description="Most viewers at once; beyond it they are put off.")
    viewers_per_account_max: int = Field(20, ge=1, le=100_000, description="Most viewers at once of one account.")
    viewer_heartbeat_s: float = Field(15.0, gt=0, le=60, description="Longest silence on a viewer's stream.")
    viewer_stall_s: float = Field(
        10.0, gt=0, le=3600, description="Longest time that a viewer may read nothing; then it is cut off and resumes."
    )
    viewer_backlog_max: int = Field(
        256, ge=1, le=100_000, description="Most events that a viewer may be behind; then it is cut off and resumes."
    )
    viewer_poll_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Pause between looks for what is new in a followed meeting if nobody tells of it.",
    )
    viewer_insights_wait_s: float = Field(
        10.0, ge=0, le=3600, description="How long viewers wait for the minutes of a meeting that is over."
    )
    viewer_heal_wait_s: float = Field(
        30.0, ge=0, le=3600, description="How long viewers of a meeting that is over wait for its drafts to be healed."
    )
    viewer_life_s: float = Field(
        900.0,
        gt=0,
        le=86400,
        description="Longest life of a viewer's stream: who may watch is checked at its beginning.",
    )

    @property
    def rules(self) -> Rules:
        """The quotas that the rates mean."""
        return Rules(
            address=rates(self.rate_limits_ip, "ip"),
            account=rates(self.rate_limits_account, "account"),
            routes=route_rates(self.rate_limits_routes),
            starts=rates(self.rate_limits_starts, "starts"),
        )

    @property
    def session_limits(self) -> SessionLimits:
        """The limits of live sessions."""
        audio = Quota("audio-day", self.audio_minutes_per_day * 60, 86400.0) if self.audio_minutes_per_day else None
        return SessionLimits(self.sessions_max, self.sessions_per_account, audio)

    @field_validator(
        "transcriber_targets", "allowed_origins", "allowed_hosts", "trusted_proxies", "captcha_where", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("rate_limits_ip", "rate_limits_account", "rate_limits_starts")
    @classmethod
    def _be_rates(cls, value: str) -> str:
        rates(value, "")
        return value

    @field_validator("rate_limits_routes")
    @classmethod
    def _be_rates_of_routes(cls, value: str) -> str:
        route_rates(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _be_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            Proxies(value)
        except ValueError:
            raise ValueError("must be addresses or networks such as 10.0.0.0/8") from None
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _be_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, _, host = origin.partition("://")
            if scheme not in {"http", "https"} or not host or "/" in host or "*" in host:
                raise ValueError("must be origins such as https://notes.example, without path or wildcard")
        return value

    @field_validator("auth_public_key")
    @classmethod
    def _be_a_public_key(cls, value: str) -> str:
        public_keys(value)
        # Where a variable cannot hold line ends, they are written as \n.
        return value.replace("\\n", "\n")

    @field_validator("captcha_where")
    @classmethod
    def _be_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if set(value) - set(WHERE):
            raise ValueError(f"must be some of {', '.join(WHERE)}")
        return value

    @field_validator("oidc_issuer", "oidc_jwks_url", "captcha_verify_url")
    @classmethod
    def _be_urls(cls, value: str, info: ValidationInfo) -> str:
        # What decides who comes in must not be changed on its way.
        allowed = ("https://",) if info.data.get("verbatim_env") == "production" else ("https://", "http://")
        if value and not value.startswith(allowed):
            raise ValueError(f"must begin with {' or '.join(allowed)}")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _be_given_with_an_issuer(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("oidc_issuer") and not value:
            raise ValueError("is needed with OIDC_ISSUER")
        return value
