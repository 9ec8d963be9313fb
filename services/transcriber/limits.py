"""How much of everything one session may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.transcriber.cutting import CuttingSettings
from services.transcriber.filters import FilterSettings
from services.transcriber.healing import HealingSettings
from services.transcriber.transcript import BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Limits of one session; seconds and bytes."""

    window_bytes: int = 60 * BYTES_PER_SECOND
    buffer_bytes_max: int = 600 * BYTES_PER_SECOND
    backlog_hold_s: float = 60.0
    partial_every_s: float = 1.5
    partial_growth: float = 0.33
    partial_min_s: float = 0.8
    checkpoint_every_s: float = 30.0
    parallel_utterances: int = 2
    idle_s: float = 1800.0
    sign_of_life_s: float = 600.0
    viewers_reminded_s: float = 5.0
    gap_bytes_max: int = 24 * 3600 * BYTES_PER_SECOND
    stored_wait_s: float = 3.0
    faults_max: int = 100
    decoding_share: float = 0.1
    decoding_burst_s: float = 2.0
    cutting: CuttingSettings = field(default_factory=CuttingSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    healing: HealingSettings = field(default_factory=HealingSettings)
