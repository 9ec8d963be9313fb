"""What a check comes to, and what mends what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "skipped"]

# Every check, in the order in which they are made.
FIXES = {
    "gateway": "on this machine: make run; in a cluster: kubectl get pods, then the runbook TargetMissing",
    "readiness": "wait for the rollout; then look at /readyz of the internal port (9100) of each service",
    "account": "verbatim login, or --throwaway to make an account for the check",
    "clock": "synchronise this machine's clock",
    "parts": "the runbook of the alert that names the part",
    "transcription": "the runbooks CircuitBreakerOpen and CaptionsDegraded",
    "storage": "the runbooks ConsumerLag and DBPoolSaturated",
    "clean-up": "delete the meeting 'verbatim doctor' by hand",
}


@dataclass(frozen=True)
class Finding:
    """What a check came to; `fix` is a command or the first thing to do."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""
    took_s: float = 0.0
