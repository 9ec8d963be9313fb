"""What the insights service counts."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

MADE = Counter("insights_made_total", "Insights stored.", ["engine", "quality"])
HEALED = Counter("insights_healed_total", "Drafts that a language model replaced when it was back.")
MODEL_CALLS = Histogram(
    "language_model_call_duration_seconds",
    "Time of a call of the language model, by how it ended.",
    ["result"],
    buckets=(0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0),
)
MODEL_TOKENS = Counter("language_model_tokens_total", "Tokens read and written by the language model.", ["direction"])
EVENTS_REFUSED = Counter("events_refused_total", "Events that could not be read and went to the dead letters.")

MODEL_COST = Counter(
    "language_model_cost_dollars_total", "What these cost, by LLM_INPUT_PRICE and LLM_OUTPUT_PRICE."
)  # fmt: skip
MODEL_REPAIRS = Counter("language_model_repairs_total", "Answers that could not be used and were asked for again.")
POINTS_DROPPED = Counter(
    "insights_points_dropped_total", "Points of a model that rest on no segment of the transcript."
)
OVER_BUDGET = Counter("insights_over_budget_total", "Minutes that are drafts because the account's budget is spent.")
EDITED = Counter("insights_edited_total", "Changes that people made to insights.")
FIGURES = Counter(
    "figures_told_total", "Figures of meetings and tasks that were told: news, or known already.", ["what"]
)
