"""The settings of the transcriber."""

from __future__ import annotations

import os

from pydantic import Field, SecretStr

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the transcriber can be told."""

    grpc_host: str = Field("127.0.0.1", description="Address of the gRPC port.")
    grpc_port: int = Field(9200, ge=0, le=65535, description="gRPC port.")

    openai_api_key: SecretStr | None = Field(None, description="Key of the speech API. Without one: embedded engine.")
    openai_base_url: str | None = Field(None, description="Base URL of an OpenAI-compatible speech API.")
    whisper_model: str = Field("whisper-1", description="Model asked for at the speech API.")
    speech_deadline_s: float = Field(
        30.0, gt=0, le=300, description="Longest time of one recognition, retries included."
    )
    speech_concurrency: int = Field(
        8, ge=1, le=256, description="Most recognitions at the speech API at one time; fewer while it struggles."
    )
    speech_attempts: int = Field(3, ge=1, le=5, description="Attempts of one recognition at the speech API.")
    speech_retry_min_s: float = Field(2.0, gt=0, le=60, description="Shortest pause before the next attempt.")
    speech_retry_max_s: float = Field(10.0, gt=0, le=120, description="Longest pause before the next attempt.")
    speech_retry_budget: float = Field(0.1, ge=0, le=1, description="Retries per call, on the average, at most.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row at which the breaker opens.")
    breaker_failure_rate: float = Field(0.5, gt=0, le=1, description="Share of failed calls at which it opens.")
    breaker_slow_s: float = Field(15.0, gt=0, description="A call that takes as long counts as slow.")
    breaker_slow_rate: float = Field(0.8, gt=0, le=1, description="Share of slow calls at which it opens.")
    breaker_window_s: float = Field(30.0, gt=0, description="Time over which shares are counted.")
    breaker_calls_min: int = Field(20, ge=1, description="Fewest calls in that time for a share to count.")
    breaker_open_s: float = Field(60.0, gt=0, description="How long it stays open; up to a tenth is added by chance.")
    breaker_probes: int = Field(2, ge=1, description="Probes at one time when it is half-open.")
    breaker_probes_needed: int = Field(3, ge=1, description="Probes that must succeed for it to close.")
    breaker_ramp_s: float = Field(30.0, ge=0, description="Time in which concurrency grows again after it closed.")
    heal_hold_s: float = Field(
        90.0, ge=0, le=3600,
        description="Time after an outage in which healing is held back; then it doubles each sixth of it. 0: none.",
    )  # fmt: skip
    heal_share: float = Field(
        0.1, ge=0, le=10, description="Calls for healing in that time, as a share of those for live speech."
    )
    heal_per_s_min: float = Field(
        0.2, gt=0, le=100, description="Calls for healing per second of one replica in that time, at least."
    )
    draft_within_s: float = Field(3.0, ge=0.5, le=60, description="When a live draft is due, from the end of speech.")
    embedded_workers: int = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 2)), ge=1, le=64,
        description="Processes of the embedded engine; default: one per processor.",
    )  # fmt: skip
    embedded_memory_bytes: int = Field(
        1024**3, ge=256 * 1024**2, description="Memory limit of one process of the embedded engine."
    )

    audio_log_bytes: int = Field(4 * 1024**3, ge=1024**2, description="Size limit of the audio log.")
    transcript_log_bytes: int = Field(1024**3, ge=1024**2, description="Size limit of the transcript log.")
    log_age_s: float = Field(7 * 86400.0, ge=3600, description="Age at which both logs are dropped.")
    audio_coalesce_s: float = Field(0.2, ge=0.0, le=2.0, description="Audio gathered into one append.")

    sessions_max: int = Field(1000, ge=1, description="Sessions that one replica takes.")
    session_idle_s: float = Field(1800.0, ge=1.0, description="Silence of the client after which a session is closed.")
    window_s: float = Field(60.0, ge=1.0, le=600, description="Audio a client may send beyond the last ack.")
    backlog_hold_s: float = Field(60.0, ge=1.0, description="Audio waiting for an engine at which clients must hold.")
    partial_every_s: float = Field(1.5, ge=0.2, description="Pause between partial texts of one session.")
    parallel_utterances: int = Field(2, ge=1, le=16, description="Utterances of one session recognised at one time.")
    end_silence_ms: int = Field(500, ge=150, le=5000, description="Silence that ends an utterance.")
    soft_cap_ms: int = Field(12_000, ge=4000, le=28_000, description="Length from which an utterance is cut at a dip.")
    hard_cap_ms: int = Field(28_000, ge=5000, le=60_000, description="Length at which an utterance is cut anyway.")
    heal_sessions: int = Field(
        2, ge=1, le=64, description="Closed sessions whose drafts one replica hears again at one time."
    )

    uploads_bytes_max: int = Field(2 * 1024**3, ge=1024**2, description="Size limit of the store of uploaded files.")
    uploads_max: int = Field(2, ge=0, le=64, description="Uploaded files that one replica works on at one time.")
    transcriptions_max: int = Field(
        4, ge=0, le=64, description="Files that one replica transcribes at once, while the caller waits, at one time."
    )
    transcription_bytes_max: int = Field(
        25 * 1024**2, ge=1024, description="Longest file that is transcribed while the caller waits."
    )
    recording_parallel: int = Field(4, ge=1, le=64, description="Utterances of recordings recognised at one time.")
    recording_s_max: int = Field(6 * 3600, ge=1, le=24 * 3600, description="Longest recording, in seconds of sound.")
    decode_memory_bytes: int = Field(
        768 * 1024**2, ge=256 * 1024**2, description="Memory limit of the process that decodes a file."
    )
    decode_cpu_s: int = Field(180, ge=1, le=3600, description="Processor time that decoding one file may take.")
    decode_s: float = Field(600.0, ge=1, le=7200, description="Time that decoding one file may take.")
