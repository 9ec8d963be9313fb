"""What language models cost whom: counted in tokens, by account and month, against a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.insights import metrics


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in dollars."""

    input_dollars: float = 0.0
    output_dollars: float = 0.0


@dataclass(slots=True)
class Spend:
    """What one attempt has spent so far, whether it came to something or not."""

    prices: Prices = field(default_factory=Prices)
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """Count one call."""
        self.calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        metrics.MODEL_TOKENS.labels("input").inc(input_tokens)
        metrics.MODEL_TOKENS.labels("output").inc(output_tokens)
        dollars = input_tokens * self.prices.input_dollars + output_tokens * self.prices.output_dollars
        metrics.MODEL_COST.inc(dollars / 1e6)


def period_of(moment: datetime) -> str:
    """Return the period that a moment belongs to: the calendar month in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def until_next_s(moment: datetime) -> float:
    """Return the seconds until the next period begins."""
    here = moment.astimezone(UTC)
    year, month = divmod(here.year * 12 + here.month, 12)
    return (datetime(year, month + 1, 1, tzinfo=UTC) - here).total_seconds()
