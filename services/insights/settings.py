"""What the insights service can be told."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """Settings of the insights service."""

    database_url_insights: SecretStr = Field(
        description="Its database, postgresql://user:password@host/name; several hosts (a:5432,b:5432): a primary and "
        "its standbys, of which the one that takes writes is used."
    )
    database_direct_url_insights: SecretStr = Field(
        SecretStr(""), description="The database itself, if the other is a PgBouncer in transaction mode."
    )
    meetings_target: str = Field("127.0.0.1:50052", description="Address of the meetings service, as gRPC writes it.")
    grpc_host: str = Field("127.0.0.1", description="Address of the gRPC port.")
    grpc_port: int = Field(50053, ge=0, le=65535, description="Port for calls from other services.")
    openai_api_key: SecretStr = Field(SecretStr(""), description="Key of the language model; empty: drafts only.")
    openai_base_url: str = Field("", description="Address of an OpenAI-compatible server; empty: OpenAI itself.")
    llm_model: str = Field("gpt-4o-mini", description="Language model that writes minutes; empty: drafts only.")
    llm_timeout_s: float = Field(60.0, gt=0, le=600, description="Longest time of one call of the language model.")
    llm_context_tokens: int = Field(
        32_000,
        ge=4000,
        le=2_000_000,
        description="What the language model reads at once; a longer transcript is read in pieces.",
    )
    llm_answer_tokens: int = Field(4096, ge=256, le=100_000, description="Longest answer of the language model.")
    llm_pieces_max: int = Field(
        20, ge=1, le=200, description="Most pieces of a transcript; one that would have more gets a draft."
    )
    llm_input_price: float = Field(0.15, ge=0, description="What a million tokens cost that are read, in dollars.")
    llm_output_price: float = Field(0.60, ge=0, description="What a million tokens cost that are written, in dollars.")
    llm_budget_tokens: int = Field(
        0,
        ge=0,
        description="Tokens that one account may spend in a calendar month (UTC); then it gets drafts until the next "
        "month begins, when they are made again. 0: as many as it likes.",
    )
    segments_max: int = Field(20_000, ge=1, description="Most segments of a meeting that minutes are made from.")
    job_attempts_max: int = Field(3, ge=1, le=20, description="Attempts until a job is given up.")
    job_concurrency: int = Field(2, ge=1, le=64, description="Jobs worked on at once by one process.")
    job_retry_delays_s: tuple[float, ...] = Field(
        (5.0, 10.0), min_length=1, description="Pauses before the second, third, … attempt of a job, as a JSON list."
    )

    llm_breaker_failures: int = Field(
        5, ge=1, description="Failures in a row at which the language model is left alone for a while."
    )
    llm_breaker_open_s: float = Field(60.0, gt=0, description="For how long; then it is tried again with care.")
    heal_retry_delays_s: tuple[float, ...] = Field(
        (60.0, 120.0, 300.0, 600.0, 1800.0), min_length=1,
        description="Pauses before a draft is tried by the language model again, as a JSON list; the last one repeats.",
    )  # fmt: skip
    heal_attempts_max: int = Field(
        100, ge=1, description="Attempts until a draft stays one; then its job is among the dead letters."
    )

    @property
    def language_model_configured(self) -> bool:
        return bool(self.openai_api_key.get_secret_value() and self.llm_model)

    @model_validator(mode="after")
    def _question_has_room(self) -> Settings:
        if self.llm_answer_tokens + 2500 > self.llm_context_tokens:
            raise ValueError("LLM_ANSWER_TOKENS leaves no room for a question in LLM_CONTEXT_TOKENS")
        return self
